// How fast large payloads go to a worker and back: four in flight, each counted once.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <muster/producer.hpp>
#include <stdexcept>
#include <string>

#include "bench/muster_pool.hpp"

namespace {

using Clock = std::chrono::steady_clock;
using Seconds = std::chrono::duration<double>;

constexpr std::uint64_t kInFlight = 4;

// Keeps four tasks in flight for `duration`; returns the number of answers and corrects `duration`
// to the time of the last one. The payload is sent from one buffer, as the raw side does.
std::uint64_t run_tasks(muster::Stream& stream, const muster::Bytes& payload, Seconds& duration) {
  const Seconds wanted = duration;
  const Clock::time_point start = Clock::now();
  std::uint64_t answers = 0;
  do {
    while (stream.pushed() - stream.returned() < kInFlight) stream.push(payload);
    const auto item = stream.next();
    if (!item || item->error || item->result.size() != payload.size()) {
      throw std::runtime_error("the answer is not what was sent");
    }
    ++answers;
    duration = Clock::now() - start;
  } while (duration < wanted);
  return answers;
}

void measure(std::size_t size_bytes, double seconds, const std::string& executor) {
  const muster::bench::MusterPool pool(executor);
  muster::Producer producer(pool.options());
  muster::bench::MusterPool::wait_for_worker(producer);
  muster::Stream stream = producer.stream({"echo"});
  const std::string text(size_bytes, 'p');
  const muster::Bytes payload = muster::Bytes::copy(text);
  Seconds duration(std::min(0.3, seconds / 4));
  run_tasks(stream, payload, duration);
  duration = Seconds(seconds);
  const double answers = static_cast<double>(run_tasks(stream, payload, duration));
  std::printf("{\"figure\":\"megabytes_per_second\",\"value\":%.2f}\n",
              answers * static_cast<double>(size_bytes) / 1e6 / duration.count());
}

}  // namespace

int main(int argc, char** argv) {
  std::size_t size_bytes = 1'000'000;
  double seconds = 2;
  std::string executor = "thread";
  bool json = true;
  CLI::App app("Large payloads to a worker and back");
  app.add_option("--size", size_bytes, "bytes of one payload")
      ->check(CLI::Range(std::size_t{1}, std::size_t{1} << 30));
  app.add_option("--seconds", seconds, "how long to measure, after a short warm-up")
      ->check(CLI::Range(0.01, 3600.0));
  app.add_option("--executor", executor, "thread or process");
  app.add_flag("--json", json, "the only format there is");
  CLI11_PARSE(app, argc, argv);
  try {
    measure(size_bytes, seconds, executor);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "muster_echo_bench: %s\n", error.what());
    return 2;
  }
  return 0;
}
