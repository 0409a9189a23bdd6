// What the name of a blob costs: the digest of content that is not in the cache.
#include <CLI/CLI.hpp>
#include <chrono>
#include <cstddef>
#include <cstdio>
#include <exception>
#include <random>
#include <vector>

#include "common/protocol/blob_names.hpp"

namespace {

using Clock = std::chrono::steady_clock;

// The time of one digest, as of the fastest of a few: others only disturb.
double measure(std::size_t size_bytes) {
  std::vector<std::uint64_t> content(size_bytes / sizeof(std::uint64_t));
  std::mt19937_64 random(1);
  for (std::uint64_t& word : content) word = random();
  double fastest = 1e9;
  for (int turn = 0; turn < 3; ++turn) {
    const Clock::time_point start = Clock::now();
    const muster::BlobId id = muster::digest_of(std::as_bytes(std::span(content)));
    const std::chrono::duration<double> taken = Clock::now() - start;
    if (id.is_zero()) throw std::logic_error("no digest");
    fastest = std::min(fastest, taken.count());
  }
  return fastest;
}

}  // namespace

int main(int argc, char** argv) {
  std::size_t megabytes = 256;
  bool json = true;
  CLI::App app("The digest that names a blob");
  app.add_option("--megabytes", megabytes, "of content")
      ->check(CLI::Range(std::size_t{1}, std::size_t{1} << 16));
  app.add_flag("--json", json, "the only format there is");
  CLI11_PARSE(app, argc, argv);
  try {
    std::printf("{\"figure\":\"digest_seconds\",\"value\":%.6f}\n", measure(megabytes * 1'000'000));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "digest_bench: %s\n", error.what());
    return 2;
  }
  return 0;
}
