// The first program: squares of a million numbers, on every processor of this machine.
#include <cstdint>
#include <cstdio>
#include <muster/producer.hpp>
#include <numeric>

int main() {
  muster::Producer producer({.plugins = {MUSTER_PLUGIN_DIR "/first_tasks.so"}});
  std::vector<std::int64_t> numbers(1'000'000);
  std::iota(numbers.begin(), numbers.end(), 0);
  std::int64_t sum = 0;
  for (const auto square : producer.map<std::int64_t>("square", numbers)) sum += square;
  std::printf("%lld\n", static_cast<long long>(sum));
}
