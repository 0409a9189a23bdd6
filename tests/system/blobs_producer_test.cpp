// Large data from the producer's side.
#include <atomic>
#include <thread>
#include <tuple>

#include "tests/system/blob_pool.hpp"

namespace muster::test {
namespace {

using BlobsProducer = BlobPoolTest;

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

TEST_F(BlobsProducer, ABlobOfAnotherProducerIsPutHereAsWell) {
  start();
  Producer producer(options());
  Options embedded;
  embedded.embedded = true;
  embedded.programs = MUSTER_BIN_DIR;
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
    embedded.programs = MUSTER_BIN_DIR;
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
