// A C++ producer of a chaos run (tests/chaos): chaos_load COUNT RESULT maps COUNT numbers with
// retries, compares every square, in order, and writes {"error": ""} or what is wrong to RESULT.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <muster/producer.hpp>
#include <numeric>
#include <string>
#include <vector>

namespace {

constexpr std::uint32_t kRetries = 30;

std::string run(std::int64_t count) {
  std::vector<std::int64_t> numbers(static_cast<std::size_t>(count));
  std::iota(numbers.begin(), numbers.end(), std::int64_t{0});
  muster::Producer producer;
  muster::JobOptions options;
  options.retries = kRetries;
  std::int64_t got = 0;
  for (const std::int64_t square : producer.map<std::int64_t>("square", numbers, options)) {
    if (square != got * got) {
      return "result " + std::to_string(got) + " is " + std::to_string(square);
    }
    ++got;
  }
  return got == count ? "" : std::to_string(got) + " results of " + std::to_string(count);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: chaos_load COUNT RESULT\n");
    return 2;
  }
  std::string error;
  try {
    error = run(std::atoll(argv[1]));
  } catch (const std::exception& failure) {
    error = failure.what();
  }
  for (char& letter : error) {
    if (letter == '"' || letter == '\\' || letter == '\n') letter = ' ';
  }
  std::ofstream(argv[2]) << "{\"error\": \"" << error << "\"}\n";
  return error.empty() ? 0 : 1;
}
