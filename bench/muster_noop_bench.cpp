// What a task costs: no-op native tasks with 64-byte payloads through producer, broker and worker.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <muster/producer.hpp>
#include <stdexcept>

#include "bench/muster_pool.hpp"

namespace {

using Clock = std::chrono::steady_clock;
using Seconds = std::chrono::duration<double>;

constexpr std::size_t kPayloadBytes = 64;
constexpr int kTasksPerLook = 256;  // at the clock

// Keeps the stream's window full for `duration`; returns the number of results.
std::uint64_t run_tasks(muster::Stream& stream, Seconds duration) {
  constexpr std::array<char, kPayloadBytes> kPayload{};
  muster::BytesArena arena;
  const Clock::time_point start = Clock::now();
  std::uint64_t results = 0;
  do {
    for (int i = 0; i < kTasksPerLook; ++i) {
      while (stream.has_room()) stream.push(arena.append(kPayload.data(), kPayload.size()));
      const auto item = stream.next();
      if (!item || item->error) throw std::runtime_error("a no-op has no result");
      ++results;
    }
  } while (Clock::now() - start < duration);
  return results;
}

void measure(double seconds, const std::string& executor, std::size_t window) {
  const muster::bench::MusterPool pool(executor);
  muster::Producer producer(pool.options());
  muster::bench::MusterPool::wait_for_worker(producer);
  muster::JobOptions options;
  if (window != 0) options.window = window;
  muster::Stream stream = producer.stream({"noop"}, options);
  run_tasks(stream, Seconds(std::min(0.5, seconds / 4)));
  const std::chrono::nanoseconds cpu_before = pool.cpu();
  const Clock::time_point start = Clock::now();
  const double tasks = static_cast<double>(run_tasks(stream, Seconds(seconds)));
  const Seconds wall = Clock::now() - start;
  const std::chrono::duration<double, std::micro> cpu = pool.cpu() - cpu_before;
  std::printf("{\"figure\":\"tasks_per_second\",\"value\":%.0f}\n", tasks / wall.count());
  std::printf("{\"figure\":\"cpu_us_per_task\",\"value\":%.4f}\n", cpu.count() / tasks);
}

}  // namespace

int main(int argc, char** argv) {
  double seconds = 3;
  std::string executor = "thread";
  std::size_t window = 0;
  bool json = true;
  CLI::App app("No-op tasks through producer, broker and worker");
  app.add_option("--seconds", seconds, "how long to measure, after a short warm-up")
      ->check(CLI::Range(0.01, 3600.0));
  app.add_option("--executor", executor, "thread or process");
  app.add_option("--window", window, "tasks in flight (0: the library's default)");
  app.add_flag("--json", json, "the only format there is");
  CLI11_PARSE(app, argc, argv);
  try {
    measure(seconds, executor, window);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "muster_noop_bench: %s\n", error.what());
    return 2;
  }
  return 0;
}
