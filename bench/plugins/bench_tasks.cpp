// The functions that the benchmarks run on workers.
#include <muster/task.hpp>

MUSTER_PLUGIN(registry) {
  registry.add_raw(
      "noop", [](const muster::Bytes&, const muster::TaskContext&) { return muster::Bytes(); });
  registry.add_raw(
      "echo", [](const muster::Bytes& payload, const muster::TaskContext&) { return payload; });
}
