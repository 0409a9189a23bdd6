// A pool for tests of large data: a real broker, a real worker, files in real folders.
#pragma once

#include <gtest/gtest.h>

#include <csignal>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <muster/producer.hpp>
#include <numeric>
#include <sstream>
#include <string>
#include <vector>

#include "tests/system/program.hpp"

namespace muster::test {
using namespace std::chrono_literals;
using Numbers = std::vector<std::int64_t>;

inline constexpr std::size_t kMegabyte = std::size_t{1} << 20;

inline Numbers numbers_from(std::int64_t first, std::size_t size_bytes = kMegabyte) {
  Numbers numbers(size_bytes / sizeof(std::int64_t));
  std::iota(numbers.begin(), numbers.end(), first);
  return numbers;
}
inline std::int64_t sum(const Numbers& numbers) {
  return std::accumulate(numbers.begin(), numbers.end(), std::int64_t{0});
}

inline ErrorCode code_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    EXPECT_STRNE(error.what(), "");
    return error.code();
  }
  ADD_FAILURE() << "no Error was thrown";
  return ErrorCode::invalid;
}

// The file of a map in this process that has `address`; empty: there is none.
inline std::string mapped_file(const void* address) {
  const auto wanted = reinterpret_cast<std::uintptr_t>(address);
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    std::uintptr_t begin = 0;
    std::uintptr_t end = 0;
    char dash = 0;
    std::istringstream words(line);
    words >> std::hex >> begin >> dash >> end;
    if (wanted < begin || wanted >= end) continue;
    const auto path = line.find('/');
    return path == std::string::npos ? "" : line.substr(path);
  }
  return "";
}

inline std::uint64_t bytes_in(const std::string& folder) {
  std::uint64_t bytes = 0;
  std::error_code ignored;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder, ignored)) {
    const auto size = entry.is_regular_file(ignored) ? entry.file_size(ignored) : 0;
    if (!ignored) bytes += size;
  }
  return bytes;
}

class BlobPoolTest : public ::testing::Test {
 protected:
  std::string endpoint() const { return "ipc://" + folder_ / "broker"; }
  void start_broker(const std::vector<std::string>& limits = {}) {
    std::vector<std::string> argv = {MUSTER_BIN_DIR "/muster-broker",
                                     "--listen",
                                     endpoint(),
                                     "--log-level",
                                     "error",
                                     "--blob-folder",
                                     folder_ / "disk"};
    argv.insert(argv.end(), limits.begin(), limits.end());
    broker_ = std::make_unique<Program>(argv);
    ASSERT_TRUE(eventually([&] { return std::filesystem::exists(folder_ / "broker"); }, 100s));
  }
  void start_worker(const std::string& executor = "process") {
    worker_ = std::make_unique<Program>(std::vector<std::string>{
        MUSTER_BIN_DIR "/muster-worker", "--connect", endpoint(), "--slots", "2", "--executor",
        executor, "--plugin", MUSTER_PLUGIN_DIR "/test_tasks.so", "--plugin",
        MUSTER_PLUGIN_DIR "/blob_tasks.so", "--log-level", "error"});
  }
  void start(const std::vector<std::string>& limits = {}) {
    start_broker(limits);
    start_worker();
  }
  Options options() const {
    Options options;
    options.endpoint = endpoint();
    return options;
  }
  void tell() const { std::ofstream(folder_ / "go").put('x'); }
  bool started(std::size_t count) const {
    return eventually([&] {
      std::ifstream file(folder_ / "starts");
      std::size_t lines = 0;
      for (std::string line; std::getline(file, line);) ++lines;
      return lines >= count;
    });
  }
  ~BlobPoolTest() override {
    if (worker_) worker_->stop(SIGTERM);
    if (broker_) broker_->stop(SIGTERM);
  }

  Folder folder_;
  std::unique_ptr<Program> broker_;
  std::unique_ptr<Program> worker_;
};

}  // namespace muster::test
