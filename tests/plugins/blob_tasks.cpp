// Functions for the tests of large data.
#include <chrono>
#include <filesystem>
#include <fstream>
#include <muster/task.hpp>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

namespace {

std::int64_t sum_of(const muster::Blob& numbers) {
  const auto values = numbers.as<std::int64_t>();
  return std::accumulate(values.begin(), values.end(), std::int64_t{0});
}

}  // namespace

MUSTER_PLUGIN(registry) {
  registry.add("sum", [](const muster::Blob& numbers) { return sum_of(numbers); });
  registry.add("sum_all", [](const std::vector<muster::Blob>& parts) {
    std::int64_t sum = 0;
    for (const muster::Blob& part : parts) sum += sum_of(part);
    return sum;
  });
  registry.add("number_at", [](const muster::Blob& numbers, std::uint64_t index) {
    return numbers.as<std::int64_t>()[index];
  });
  // Appends a line to the file `folder`/starts and waits until `folder`/go exists.
  registry.add("sum_when_told", [](const muster::TaskContext& context, const muster::Blob& numbers,
                                   const std::string& folder) {
    std::ofstream(folder + "/starts", std::ios::app) << "x\n";
    while (!std::filesystem::exists(folder + "/go") && !context.stop_requested()) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return sum_of(numbers);
  });
  registry.add("length", [](const std::string& text) { return text.size(); });
  registry.add("repeat", [](const std::string& letter, std::uint64_t count) {
    return std::string(count, letter.front());
  });
  // A result that is a blob.
  registry.add("iota", [](const muster::TaskContext& context, std::uint64_t count) {
    std::vector<std::int64_t> numbers(count);
    std::iota(numbers.begin(), numbers.end(), std::int64_t{0});
    return context.make_blob(numbers);
  });
}
