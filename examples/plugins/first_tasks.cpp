// The functions of first.cpp.
#include <cstdint>
#include <muster/task.hpp>

MUSTER_PLUGIN(registry) {
  registry.add("square", [](std::int64_t number) { return number * number; });
}
