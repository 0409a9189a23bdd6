// Large data when brokers end, files are lost and room runs out.
#include <sys/resource.h>

#include <thread>

#include "tests/system/blob_pool.hpp"

namespace muster::test {
namespace {

using BlobsProducerFaults = BlobPoolTest;

TEST_F(BlobsProducerFaults, HeldBlobsOutliveABrokerThatIsKilled) {
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

TEST_F(BlobsProducerFaults, WhatABrokerLostIsWrittenAgainFromAMap) {
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

TEST_F(BlobsProducerFaults, WhatABrokerLostAndNobodyHasIsSaid) {
  start();
  Producer producer(options());
  const Numbers numbers = numbers_from(6);
  const Blob blob = producer.scatter(numbers);
  EXPECT_EQ(producer.submit<std::int64_t>("sum", blob).get(), sum(numbers));
  const std::filesystem::path folder = [&] {
    const Blob other = producer.scatter(numbers_from(7));
    producer.submit<std::int64_t>("sum", other).get();  // so the broker has taken it in
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

TEST_F(BlobsProducerFaults, MoreThanThereIsRoomForGoesThroughBitByBit) {
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

TEST_F(BlobsProducerFaults, HandlesThatFillAllRoomAreAnError) {
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

TEST_F(BlobsProducerFaults, ContentThatIsPutAgainBeforeTheBrokerLooksIsNotLost) {
  start();
  Producer producer(options());
  EXPECT_EQ(producer.submit<std::int64_t>("sum", producer.scatter(Numbers{7})).get(), 7);
  const Numbers numbers = numbers_from(3);
  ::kill(broker_->process(), SIGSTOP);
  Blob blob;
  const auto end = std::chrono::steady_clock::now() + 100ms;  // many times as long as a release
  while (std::chrono::steady_clock::now() < end) {
    blob = {};
    blob = producer.scatter(numbers);
  }
  ::kill(broker_->process(), SIGCONT);
  EXPECT_EQ(producer.submit<std::int64_t>("sum", blob).get(), sum(numbers));
  EXPECT_EQ(producer.submit<std::int64_t>("sum", blob).get(), sum(numbers)) << "nor refused";
  blob = {};
  blob = producer.scatter(numbers);
  EXPECT_EQ(producer.submit<std::int64_t>("sum", blob).get(), sum(numbers));
}

TEST_F(BlobsProducerFaults, ARefusedBlobIsExplainedEvenIfItsTaskIsAllThatUsedIt) {
  start({"--blob-memory", "4MiB", "--blob-disk", "4MiB"});
  Producer other(options());
  std::vector<Blob> held;
  for (int i = 0; i < 6; ++i) held.push_back(other.scatter(numbers_from(i)));
  EXPECT_EQ(other.submit<std::int64_t>("sum", held.back()).get(), sum(numbers_from(5)));
  Producer producer(options());
  EXPECT_EQ(producer.submit<std::int64_t>("sum", producer.scatter(Numbers{7})).get(), 7);
  ::kill(broker_->process(), SIGSTOP);  // so that it answers all at once
  auto future =
      producer.submit<std::int64_t>("sum", producer.scatter(numbers_from(7, 3 * kMegabyte)));
  ::kill(broker_->process(), SIGCONT);
  try {
    future.get();
    ADD_FAILURE() << "no Error was thrown";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), "blob_lost") << error.what();
    EXPECT_NE(std::string(error.what()).find("no room for a blob"), std::string::npos)
        << error.what();
  }
}

TEST_F(BlobsProducerFaults, AResultWaitsUntilThereIsRoomForIt) {
  start({"--blob-memory", "4MiB", "--blob-disk", "4MiB"});
  Producer producer(options());
  std::vector<Blob> held;
  for (int i = 0; i < 6; ++i) held.push_back(producer.scatter(numbers_from(i)));
  EXPECT_EQ(producer.submit<std::int64_t>("sum", held.back()).get(), sum(numbers_from(5)));
  auto future = producer.submit<Blob>("iota", std::uint64_t{3 * kMegabyte / 8});
  EXPECT_TRUE(eventually([&] {
    return producer.status().json.find("\"outcomes_waiting_for_blobs\": 1") != std::string::npos;
  })) << producer.status().json;
  held.clear();
  EXPECT_EQ(future.get().as<std::int64_t>().back(), std::int64_t{3 * kMegabyte / 8 - 1});
}

TEST_F(BlobsProducerFaults, WithoutFoldersResultsTravelInMessages) {
  start({"--blob-memory", "0", "--blob-disk", "0"});
  Producer producer(options());
  EXPECT_FALSE(producer.has_blobs());
  const std::uint64_t size = 5 * kMegabyte;
  EXPECT_EQ(producer.submit<std::string>("repeat", std::string("a"), size).get(),
            std::string(size, 'a'));
  try {
    producer.submit<Blob>("iota", std::uint64_t{1000}).get();
    ADD_FAILURE() << "no Error was thrown";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), "result_too_large");
    EXPECT_NE(std::string(error.what()).find("does not share the broker's folders"),
              std::string::npos)
        << error.what();
  }
}

TEST_F(BlobsProducerFaults, ThreadsThatPutTheSameAndLetGoOfItLoseNothing) {
  start({"--blob-memory", "16MiB", "--blob-disk", "16MiB"});
  Producer producer(options());
  std::vector<std::string> errors(4);
  std::vector<std::thread> threads;
  for (std::string& error : errors) {
    threads.emplace_back([&] {
      try {
        for (int i = 0; i < 300; ++i) {
          const Numbers numbers = numbers_from(i % 3, kMegabyte / 4);
          const Blob blob = producer.scatter(numbers);
          if (i % 10 != 0) continue;
          const auto got = producer.submit<std::int64_t>("sum", blob).get();
          if (got != sum(numbers)) throw std::runtime_error("a wrong sum");
        }
      } catch (const std::exception& failure) {
        error = failure.what();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(errors, std::vector<std::string>(4));
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

TEST_F(BlobsProducerFaults, AFileThatCannotBeWrittenIsAnErrorAndLeavesNothing) {
  start();
  Producer producer(options());
  const Blob small = producer.scatter(numbers_from(1));
  producer.submit<std::int64_t>("sum", small).get();  // so the broker has taken it in
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

}  // namespace
}  // namespace muster::test
