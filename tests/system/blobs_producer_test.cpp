// Large data from the producer's side: a real broker, real workers, files in real folders.
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <atomic>
#include <csignal>
#include <cstdint>
#include <fstream>
#include <functional>
#include <muster/producer.hpp>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include "tests/system/program.hpp"

namespace muster::test {
namespace {

using namespace std::chrono_literals;
using Numbers = std::vector<std::int64_t>;

constexpr std::size_t kMegabyte = std::size_t{1} << 20;

Numbers numbers_from(std::int64_t first, std::size_t size_bytes = kMegabyte) {
  Numbers numbers(size_bytes / sizeof(std::int64_t));
  std::iota(numbers.begin(), numbers.end(), first);
  return numbers;
}
std::int64_t sum(const Numbers& numbers) {
  return std::accumulate(numbers.begin(), numbers.end(), std::int64_t{0});
}

ErrorCode code_of(const std::function<void()>& call) {
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
std::string mapped_file(const void* address) {
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

std::uint64_t bytes_in(const std::string& folder) {
  std::uint64_t bytes = 0;
  std::error_code ignored;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder, ignored)) {
    const auto size = entry.is_regular_file(ignored) ? entry.file_size(ignored) : 0;
    if (!ignored) bytes += size;
  }
  return bytes;
}

class BlobsProducer : public ::testing::Test {
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
  ~BlobsProducer() override {
    if (worker_) worker_->stop(SIGTERM);
    if (broker_) broker_->stop(SIGTERM);
  }

  Folder folder_;
  std::unique_ptr<Program> broker_;
  std::unique_ptr<Program> worker_;
};

TEST_F(BlobsProducer, OneArrayIsSharedByManyTasks) {
  start();
  Producer producer(options());
  ASSERT_TRUE(producer.has_blobs());
  const Numbers numbers = numbers_from(1000, 8 * kMegabyte);
  const Blob blob = producer.scatter(numbers);
  EXPECT_EQ(blob.size(), 8 * kMegabyte);
  std::vector<std::tuple<Blob, std::uint64_t>> calls;
  for (std::uint64_t i = 0; i < 64; ++i) calls.emplace_back(blob, i * 1000);
  std::int64_t expected = 1000;
  for (const std::int64_t number : producer.map<std::int64_t>("number_at", calls)) {
    EXPECT_EQ(number, expected);
    expected += 1000;
  }
  EXPECT_EQ(expected, 65'000);
  EXPECT_NE(producer.status().json.find("\"blobs_put\": 1"), std::string::npos)
      << producer.status().json;
}

TEST_F(BlobsProducer, ContentThatIsThereIsNotPutAgain) {
  start();
  Producer producer(options());
  const Numbers numbers = numbers_from(0);
  const Blob first = producer.scatter(numbers);
  const Blob second = producer.scatter(Numbers(numbers));
  EXPECT_EQ(first.file(), second.file());
  EXPECT_EQ(producer.submit<std::int64_t>("sum_all", std::vector{first, second}).get(),
            2 * sum(numbers));
}

TEST_F(BlobsProducer, ASourceThatChangesBetweenCallsIsAnotherBlob) {
  start();
  Producer producer(options());
  Numbers numbers = numbers_from(0);
  const Blob before = producer.scatter(numbers);
  const std::int64_t sum_before = sum(numbers);
  auto early = producer.submit<std::int64_t>("sum", before);
  numbers[17] += 1'000'000;
  const Blob after = producer.scatter(numbers);
  EXPECT_EQ(producer.submit<std::int64_t>("sum", after).get(), sum_before + 1'000'000);
  EXPECT_EQ(early.get(), sum_before);
  EXPECT_EQ(producer.submit<std::int64_t>("sum", before).get(), sum_before);
}

TEST_F(BlobsProducer, ABlobLivesAsLongAsATaskOfIt) {
  start();
  Producer producer(options());
  std::vector<Future<std::int64_t>> futures;
  std::int64_t expected = 0;
  for (int i = 0; i < 2; ++i) {
    const Numbers numbers = numbers_from(i);
    expected += sum(numbers);
    futures.push_back(
        producer.submit<std::int64_t>("sum_when_told", producer.scatter(numbers), folder_ / ""));
  }
  ASSERT_TRUE(started(2));
  tell();
  EXPECT_EQ(futures[0].get() + futures[1].get(), expected);
}

TEST_F(BlobsProducer, LargeArgumentsAndResultsNeedNoCare) {
  start();
  Producer producer(options());
  const std::string text(3 * kMegabyte + 1, 'y');
  EXPECT_EQ(producer.submit<std::uint64_t>("length", text).get(), text.size());
  auto future = producer.submit<std::string>("repeat", "y", text.size());
  EXPECT_EQ(future.get(), text);
  EXPECT_EQ(future.get(), text);
  const auto status = producer.status().json;
  EXPECT_NE(status.find("\"blobs_put\": 1"), std::string::npos) << status;
}

TEST_F(BlobsProducer, AResultThatIsABlobIsMapped) {
  start();
  Producer producer(options());
  Blob result = producer.submit<Blob>("iota", 200'000).get();
  const Bytes content = result.bytes();
  result = Blob();
  const auto* numbers = reinterpret_cast<const std::int64_t*>(content.data());
  EXPECT_EQ(content.size(), 200'000 * sizeof(std::int64_t));
  EXPECT_EQ(numbers[199'999], 199'999);
}

TEST_F(BlobsProducer, AResultIsTheArgumentOfTheNextTask) {
  start();
  Producer producer(options());
  const Blob result = producer.submit<Blob>("iota", 100'000).get();
  EXPECT_EQ(producer.submit<std::int64_t>("sum", result).get(), 4'999'950'000);
}

TEST_F(BlobsProducer, ASlowConsumerLeavesABoundedPartOfTheResults) {
  start();
  Producer producer(options());
  constexpr int kResults = 48;  // of 8 MB: more than may pile up
  const std::vector<std::uint64_t> counts(kResults, kMegabyte);
  std::uint64_t most = 0;
  int results = 0;
  std::string folder;
  for (const Blob& result : producer.map<Blob>("iota", counts)) {
    const auto numbers = result.as<std::int64_t>();
    EXPECT_EQ(numbers.back(), static_cast<std::int64_t>(kMegabyte - 1));
    if (folder.empty()) {
      folder = std::filesystem::path(mapped_file(numbers.data())).parent_path();
    }
    if (results == 0) {
      EXPECT_TRUE(eventually([&] { return bytes_in(folder) > 100 * kMegabyte; }));
    }
    most = std::max(most, bytes_in(folder));
    ++results;
  }
  EXPECT_EQ(results, kResults);
  EXPECT_LT(most, 300 * kMegabyte) << folder;
  EXPECT_TRUE(eventually([&] { return bytes_in(folder) < 10 * kMegabyte; })) << bytes_in(folder);
}

TEST_F(BlobsProducer, HeldBlobsOutliveABrokerThatIsKilled) {
  start();
  Producer producer(options());
  const Numbers numbers = numbers_from(5, 2 * kMegabyte);
  const Blob blob = producer.scatter(numbers);
  auto running = producer.submit<std::int64_t>("sum_when_told", blob, folder_ / "");
  ASSERT_TRUE(started(1));
  auto queued = producer.job({"sum"}, {.priority = -1});
  std::vector<Future<std::int64_t>> more;
  for (int i = 0; i < 20; ++i) more.push_back(queued.submit<std::int64_t>(blob));
  broker_->stop(SIGKILL);
  start_broker();
  tell();
  EXPECT_EQ(running.get(), sum(numbers));
  for (auto& future : more) EXPECT_EQ(future.get(), sum(numbers));
  EXPECT_EQ(producer.submit<std::int64_t>("sum", blob).get(), sum(numbers));
}

TEST_F(BlobsProducer, WhatABrokerLostIsWrittenAgainFromAMap) {
  start();
  Producer producer(options());
  const Numbers numbers = numbers_from(5);
  const Blob blob = producer.scatter(numbers);
  EXPECT_EQ(producer.submit<std::int64_t>("sum", blob).get(), sum(numbers));
  const Bytes content = blob.bytes();
  const std::filesystem::path folder =
      std::filesystem::path(mapped_file(content.data())).parent_path();
  worker_->stop(SIGKILL);
  broker_->stop(SIGKILL);
  std::filesystem::remove_all(folder);
  start();
  EXPECT_EQ(producer.submit<std::int64_t>("sum", blob).get(), sum(numbers));
}

TEST_F(BlobsProducer, WhatABrokerLostAndNobodyHasIsSaid) {
  start();
  Producer producer(options());
  const Numbers numbers = numbers_from(6);
  const Blob blob = producer.scatter(numbers);
  EXPECT_EQ(producer.submit<std::int64_t>("sum", blob).get(), sum(numbers));
  const std::filesystem::path folder = [&] {
    const Blob other = producer.scatter(numbers_from(7));
    return std::filesystem::path(mapped_file(other.bytes().data())).parent_path();
  }();
  worker_->stop(SIGKILL);
  broker_->stop(SIGKILL);
  std::filesystem::remove_all(folder);
  start();
  try {
    producer.submit<std::int64_t>("sum", blob).get();
    ADD_FAILURE() << "no Error was thrown";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), "blob_lost") << error.what();
  }
  const Blob again = producer.scatter(numbers);
  EXPECT_EQ(producer.submit<std::int64_t>("sum", again).get(), sum(numbers));
}

TEST_F(BlobsProducer, MoreThanThereIsRoomForGoesThroughBitByBit) {
  start({"--blob-memory", "8MiB", "--blob-disk", "8MiB"});
  Producer producer(options());
  Stream stream = producer.stream({"sum"});
  BytesArena arena;
  std::int64_t expected = 0;
  for (int i = 0; i < 40; ++i) {
    const Numbers numbers = numbers_from(i);
    expected += sum(numbers);
    const Blob blob = producer.scatter(numbers);
    stream.push(pack_arguments(arena, blob), {blob});
  }
  stream.close();
  std::int64_t total = 0;
  while (const auto item = stream.next()) {
    ASSERT_FALSE(item->error) << item->error->what();
    total += unpack_value<std::int64_t>(item->result);
  }
  EXPECT_EQ(total, expected);
}

TEST_F(BlobsProducer, HandlesThatFillAllRoomAreAnError) {
  start({"--blob-memory", "4MiB", "--blob-disk", "4MiB"});
  Producer producer(options());
  std::vector<Blob> held;
  EXPECT_EQ(code_of([&] {
              for (int i = 0; i < 100; ++i) held.push_back(producer.scatter(numbers_from(i)));
            }),
            ErrorCode::out_of_space);
  EXPECT_GE(held.size(), 2U);
  EXPECT_EQ(code_of([&] { producer.await_blob_room(kMegabyte, 1min); }), ErrorCode::out_of_space);
  held.pop_back();
  EXPECT_TRUE(producer.await_blob_room(kMegabyte, 0s));
  EXPECT_EQ(producer.submit<std::int64_t>("sum", producer.scatter(numbers_from(500))).get(),
            sum(numbers_from(500)));
}

// Files of this process may not grow beyond a size meanwhile.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) : old_action_(std::signal(SIGXFSZ, SIG_IGN)) {
    ::getrlimit(RLIMIT_FSIZE, &old_);
    const rlimit limit{bytes, old_.rlim_max};
    ::setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileSizeLimit() {
    ::setrlimit(RLIMIT_FSIZE, &old_);
    std::signal(SIGXFSZ, old_action_);
  }
  FileSizeLimit(const FileSizeLimit&) = delete;
  FileSizeLimit& operator=(const FileSizeLimit&) = delete;

 private:
  rlimit old_{};
  void (*old_action_)(int);
};

TEST_F(BlobsProducer, AFileThatCannotBeWrittenIsAnErrorAndLeavesNothing) {
  start();
  Producer producer(options());
  const Blob small = producer.scatter(numbers_from(1));
  const std::filesystem::path file = mapped_file(small.bytes().data());
  {
    const FileSizeLimit limit(2 * kMegabyte);
    EXPECT_EQ(code_of([&] { producer.scatter(numbers_from(2, 4 * kMegabyte)); }),
              ErrorCode::out_of_space);
    EXPECT_EQ(
        code_of([&] { producer.submit<std::uint64_t>("length", std::string(4 * kMegabyte, 'a')); }),
        ErrorCode::out_of_space);
  }
  EXPECT_TRUE(eventually([&] { return bytes_in(file.parent_path()) < 2 * kMegabyte; }));
  const Numbers numbers = numbers_from(2, 4 * kMegabyte);
  EXPECT_EQ(producer.submit<std::int64_t>("sum", producer.scatter(numbers)).get(), sum(numbers));
}

TEST_F(BlobsProducer, ABlobOfAnotherProducerIsPutHereAsWell) {
  start();
  Producer producer(options());
  Options embedded;
  embedded.embedded = true;
  embedded.slots = 1;
  embedded.plugins = {MUSTER_PLUGIN_DIR "/blob_tasks.so"};
  Producer other_pool(embedded);
  auto other = std::make_unique<Producer>(options());
  const Numbers numbers = numbers_from(3);
  const Blob blob = other->scatter(numbers);
  EXPECT_EQ(producer.submit<std::int64_t>("sum", blob).get(), sum(numbers));
  EXPECT_EQ(other_pool.submit<std::int64_t>("sum", blob).get(), sum(numbers));
  other.reset();
  EXPECT_EQ(producer.submit<std::int64_t>("sum", blob).get(), sum(numbers));
}

TEST_F(BlobsProducer, HandlesOutliveTheirProducer) {
  start();
  auto producer = std::make_unique<Producer>(options());
  const Numbers numbers = numbers_from(4);
  const Blob used = producer->scatter(numbers);
  const Blob result = producer->submit<Blob>("iota", 100'000).get();
  const Bytes content = used.bytes();
  producer.reset();
  EXPECT_EQ(used.as<std::int64_t>()[17], 21);
  EXPECT_EQ(content.size(), kMegabyte);
  EXPECT_EQ(result.size(), 800'000U);
}

TEST_F(BlobsProducer, APrivatePoolTakesItsBlobsAlong) {
  std::string file;
  {
    Options embedded;
    embedded.embedded = true;
    embedded.slots = 1;
    embedded.plugins = {MUSTER_PLUGIN_DIR "/blob_tasks.so"};
    Producer producer(embedded);
    ASSERT_TRUE(producer.has_blobs());
    const Numbers numbers = numbers_from(8);
    const Blob blob = producer.scatter(numbers);
    EXPECT_EQ(producer.submit<std::int64_t>("sum", blob).get(), sum(numbers));
    file = mapped_file(blob.bytes().data());
    EXPECT_FALSE(file.empty());
  }
  EXPECT_FALSE(std::filesystem::exists(std::filesystem::path(file).parent_path())) << file;
}

TEST_F(BlobsProducer, APartOfAFileIsNotCopied) {
  start();
  Producer producer(options());
  const Numbers numbers = numbers_from(9);
  const std::string path = folder_ / "numbers";
  std::ofstream(path, std::ios::binary)
      .write(reinterpret_cast<const char*>(numbers.data()), kMegabyte);
  const Blob whole = producer.scatter_file(path);
  const Blob part = producer.scatter_file(path, 4096, 8 * 1000);
  EXPECT_EQ(mapped_file(whole.bytes().data()), path);
  EXPECT_EQ(producer.submit<std::int64_t>("sum", whole).get(), sum(numbers));
  EXPECT_EQ(producer.submit<std::int64_t>("number_at", part, 3).get(), numbers[512 + 3]);
  EXPECT_EQ(part.size(), 8000U);
  EXPECT_EQ(code_of([&] { producer.scatter_file(folder_ / "none"); }), ErrorCode::invalid);
  EXPECT_EQ(code_of([&] { producer.scatter_file(path, kMegabyte, 1); }), ErrorCode::invalid);
  EXPECT_EQ(code_of([&] { producer.scatter_file(folder_ / ""); }), ErrorCode::invalid);
}

TEST_F(BlobsProducer, ACopyOfAFileIsWhatItWas) {
  start();
  Producer producer(options());
  const Numbers numbers = numbers_from(10, 3 * kMegabyte + 8);
  const std::string path = folder_ / "numbers";
  std::ofstream(path, std::ios::binary)
      .write(reinterpret_cast<const char*>(numbers.data()),
             static_cast<std::streamsize>(numbers.size() * sizeof(std::int64_t)));
  const Blob blob = producer.scatter_copy(path);
  EXPECT_EQ(blob.file(), producer.scatter(numbers).file());
  std::ofstream(path) << "something else";
  EXPECT_EQ(producer.submit<std::int64_t>("sum", blob).get(), sum(numbers));
  EXPECT_EQ(code_of([&] { producer.scatter_copy(folder_ / "none"); }), ErrorCode::invalid);
  EXPECT_EQ(code_of([&] { producer.scatter_copy(folder_ / ""); }), ErrorCode::invalid);
}

TEST_F(BlobsProducer, EmptyAndTinyContentIsContent) {
  start();
  Producer producer(options());
  EXPECT_EQ(producer.submit<std::int64_t>("sum", producer.scatter(Numbers())).get(), 0);
  EXPECT_EQ(producer.submit<std::int64_t>("sum", producer.scatter(Numbers{7})).get(), 7);
}

TEST_F(BlobsProducer, ThreadsPutTheSameAndLetGoOfIt) {
  start({"--blob-memory", "16MiB", "--blob-disk", "16MiB"});
  Producer producer(options());
  std::vector<std::thread> threads;
  std::atomic<int> right{0};
  for (int thread = 0; thread < 4; ++thread) {
    threads.emplace_back([&] {
      for (int i = 0; i < 25; ++i) {
        const Numbers numbers = numbers_from(i % 5, kMegabyte / 2);
        auto future = producer.submit<std::int64_t>("sum", producer.scatter(numbers));
        if (future.get() == sum(numbers)) ++right;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(right, 100);
}

TEST_F(BlobsProducer, ALibraryIsShippedToWorkersWithoutIt) {
  start_broker();
  worker_ = std::make_unique<Program>(
      std::vector<std::string>{MUSTER_BIN_DIR "/muster-worker", "--connect", endpoint(), "--slots",
                               "2", "--executor", "process", "--log-level", "error"});
  Producer producer(options());
  const Numbers numbers = numbers_from(11);
  Job job = producer.job({"sum"});
  job.ship(MUSTER_PLUGIN_DIR "/blob_tasks.so");
  EXPECT_EQ(job.submit<std::int64_t>(producer.scatter(numbers)).get(), sum(numbers));
  EXPECT_EQ(code_of([&] { job.ship("again.so"); }), ErrorCode::invalid);
  JobOptions with_library;
  with_library.ship = {MUSTER_PLUGIN_DIR "/test_tasks.so"};
  const Numbers items{1, 2, 3};
  std::int64_t next = 1;
  for (const std::int64_t square : producer.map<std::int64_t>("square", items, with_library)) {
    EXPECT_EQ(square, next * next);
    ++next;
  }
  EXPECT_EQ(code_of([&] { producer.job({"sum"}).ship(folder_ / "none.so"); }), ErrorCode::invalid);
}

}  // namespace
}  // namespace muster::test
