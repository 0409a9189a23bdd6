#include <cstdint>
#include <muster/task.hpp>

MUSTER_PLUGIN(registry) {
  registry.add("square", [](std::int64_t x) { return x * x; });
}
