// One large table for all tasks: 200 MB of numbers go to the pool once, whatever the number of
// tasks; each node has one copy in memory, whatever the number of its slots. The function itself
// is in a library that is shipped with the job: workers need not have it.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <muster/producer.hpp>
#include <tuple>
#include <vector>

int main() {
  constexpr std::uint64_t kValues = 25'000'000;
  constexpr std::uint64_t kTasks = 100;

  muster::Producer producer;  // your running pool, or one of its own on this machine
  std::vector<double> table(kValues);
  for (std::uint64_t i = 0; i < kValues; ++i) {
    table[i] = std::sin(static_cast<double>(i) * 1e-3);
  }
  const muster::Blob blob = producer.scatter(table);
  table = {};  // the pool has it

  std::vector<std::tuple<muster::Blob, std::uint64_t, std::uint64_t>> parts;
  for (std::uint64_t task = 0; task < kTasks; ++task) {
    parts.emplace_back(blob, task * kValues / kTasks, (task + 1) * kValues / kTasks);
  }
  muster::JobOptions options;
  options.ship = {MUSTER_PLUGIN_DIR "/shared_table_tasks.so"};
  double energy = 0;
  for (const double part : producer.map<double>("energy", parts, options)) energy += part;
  std::printf("mean square %.6f\n", energy / static_cast<double>(kValues));
}
