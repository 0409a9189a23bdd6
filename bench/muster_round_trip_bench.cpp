// How long a lone task takes: submit one with a 64-byte payload, wait for its result, the next.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <exception>
#include <muster/producer.hpp>
#include <string>
#include <vector>

#include "bench/muster_pool.hpp"

namespace {

using Clock = std::chrono::steady_clock;
using Seconds = std::chrono::duration<double>;

constexpr std::size_t kPayloadBytes = 64;

std::vector<double> run_tasks(muster::Job& job, Seconds duration) {
  constexpr std::array<char, kPayloadBytes> kPayload{};
  std::vector<double> microseconds;
  const Clock::time_point start = Clock::now();
  for (Clock::time_point before = start; before - start < duration;) {
    job.submit_raw(muster::Bytes::copy(kPayload.data(), kPayload.size())).get();
    const Clock::time_point after = Clock::now();
    microseconds.push_back(std::chrono::duration<double, std::micro>(after - before).count());
    before = after;
  }
  std::sort(microseconds.begin(), microseconds.end());
  return microseconds;
}

void measure(double seconds, const std::string& executor) {
  const muster::bench::MusterPool pool(executor);
  muster::Producer producer(pool.options());
  muster::bench::MusterPool::wait_for_worker(producer);
  muster::Job job = producer.job({"noop"});
  run_tasks(job, Seconds(std::min(0.3, seconds / 4)));
  const std::vector<double> sorted = run_tasks(job, Seconds(seconds));
  for (const std::size_t percent : {50, 99}) {
    std::printf("{\"figure\":\"p%zu_us\",\"value\":%.2f}\n", percent,
                sorted.at((sorted.size() - 1) * percent / 100));
  }
}

}  // namespace

int main(int argc, char** argv) {
  double seconds = 2;
  std::string executor = "thread";
  bool json = true;
  CLI::App app("The time of one task at a time");
  app.add_option("--seconds", seconds, "how long to measure, after a short warm-up")
      ->check(CLI::Range(0.01, 3600.0));
  app.add_option("--executor", executor, "thread or process");
  app.add_flag("--json", json, "the only format there is");
  CLI11_PARSE(app, argc, argv);
  try {
    measure(seconds, executor);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "muster_round_trip_bench: %s\n", error.what());
    return 2;
  }
  return 0;
}
