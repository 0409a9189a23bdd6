// Stories about the worker's connection for blobs, over real sockets: whom it believes, and that
// what it brings gets here in spite of brokers that come and go.
#include "worker/blobs/bulk_link.hpp"

#include <gtest/gtest.h>
#include <poll.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "common/protocol/codec.hpp"
#include "tests/support/child.hpp"
#include "tests/support/worker_broker.hpp"

namespace muster {
namespace {

using testing::TemporaryFolder;
using testing::wait_until;

constexpr WorkerId kWorker{3, 4};
constexpr std::uint64_t kChunk = limits::kBlobChunkBytes;
constexpr BlobName kBlob{{9, 1}, 40 * kChunk};

// The broker's end of bulk connections.
class BulkListener : public testing::WorkerBroker {
 public:
  using WorkerBroker::WorkerBroker;

  void answer(const message::BlobWant& want) {
    say(message::BlobChunk{
        want.blob, want.offset, {Bytes::copy(std::string(want.bytes, 'x')), 0, 0}});
  }
  // Answers so many questions.
  void serve(int count) {
    for (int i = 0; i < count; ++i) {
      const auto want = hear<message::BlobWant>();
      ASSERT_TRUE(want) << "after " << i;
      answer(*want);
    }
  }
  // Greets whoever comes, and answers from the third connection on. Never waits.
  void serve_the_third() {
    while (const auto message = next()) {
      if (std::holds_alternative<message::HelloBulk>(*message)) {
        ++connections_;
        welcome();
      }
      const auto* want = std::get_if<message::BlobWant>(&*message);
      if (want != nullptr && connections_ >= 3) answer(*want);
    }
  }
  int connections() const { return connections_; }

 private:
  int connections_ = 0;
};

class Bulk : public ::testing::Test {
 protected:
  explicit Bulk(Duration patience = testing::kPatience) {
    BlobFolderOptions options;
    options.memory = folder_.path("memory");
    options.disk = folder_.path("disk");
    options.memory_limit_bytes = 2 * kBlob.size_bytes;
    options.disk_limit_bytes = kBlob.size_bytes;
    BulkOptions bulk;
    bulk.worker = kWorker;
    bulk.most_bytes = 2 * kBlob.size_bytes;
    bulk.patience = patience;
    link_ = std::make_unique<BulkLink>(bulk, std::make_unique<BlobFolder>(options));
  }
  void connect(const std::string& proof = "") {
    link_->connect({folder_.endpoint("broker"), {}, proof});
  }
  void ask(BlobRequest::Kind kind, const BlobName& name) { link_->obey({{kind, name}}); }
  void fetch() { ask(BlobRequest::Kind::fetch, kBlob); }
  // The next report.
  BlobReport report() {
    wait_until([&] {
      for (BlobReport& report : link_->poll()) reports_.push_back(std::move(report));
      return !reports_.empty();
    });
    if (reports_.empty()) return {};
    BlobReport first = std::move(reports_.front());
    reports_.erase(reports_.begin());
    return first;
  }
  void expect_blob() {
    const BlobReport report = this->report();
    EXPECT_EQ(report.blob, kBlob.id);
    EXPECT_EQ(report.kind, BlobReport::Kind::here) << report.reason;
    std::ifstream file(folder_.path("memory/") + to_hex(kBlob.id));
    const std::string content{std::istreambuf_iterator<char>(file), {}};
    EXPECT_EQ(content, std::string(kBlob.size_bytes, 'x'));
  }

  TemporaryFolder folder_;
  std::unique_ptr<BulkLink> link_;
  std::vector<BlobReport> reports_;
};

TEST_F(Bulk, AsksAgainAfterAMessageThatItCannotRead) {
  BulkListener broker(folder_.endpoint("broker"));
  connect();
  fetch();
  ASSERT_TRUE(broker.hear<message::HelloBulk>());
  broker.welcome();
  ASSERT_TRUE(broker.hear<message::BlobWant>());
  broker.say_nonsense();
  ASSERT_TRUE(broker.hear<message::HelloBulk>());
  broker.welcome();
  broker.serve(40);
  expect_blob();
}

TEST_F(Bulk, ConnectsWhenThereIsSomethingToFetch) {
  std::optional<BulkListener> broker(std::in_place, folder_.endpoint("broker"));
  connect();
  fetch();
  const auto hello = broker->hear<message::HelloBulk>();
  ASSERT_TRUE(hello);
  EXPECT_EQ(hello->worker, kWorker);
  broker->welcome();
  broker->serve(40);
  expect_blob();
}

TEST_F(Bulk, SaysHelloAgainUntilTheBrokerKnowsTheWorker) {
  BulkListener broker(folder_.endpoint("broker"));
  connect();
  fetch();
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(broker.hear<message::HelloBulk>());
    broker.say(message::Unknown{{5, 6}});
  }
  ASSERT_TRUE(broker.hear<message::HelloBulk>());
  EXPECT_EQ(broker.everything_heard(), "HELLO_BULK HELLO_BULK HELLO_BULK HELLO_BULK ");
  broker.welcome();
  broker.serve(40);
  expect_blob();
}

TEST_F(Bulk, ABrokerThatComesBackIsAskedOnlyForTheRest) {
  std::optional<BulkListener> broker(std::in_place, folder_.endpoint("broker"));
  connect();
  fetch();
  ASSERT_TRUE(broker->hear<message::HelloBulk>());
  broker->welcome();
  broker->serve(25);
  // It may still take what was answered: as soon as it asks for a 37th piece it has 25.
  for (int i = 0; i < 12; ++i) ASSERT_TRUE(broker->hear<message::BlobWant>());
  broker.reset();
  broker.emplace(folder_.endpoint("broker"));
  ASSERT_TRUE(broker->hear<message::HelloBulk>());
  broker->welcome();
  broker->serve(15);
  expect_blob();
}

class ImpatientBulk : public Bulk {
 protected:
  ImpatientBulk() : Bulk(std::chrono::milliseconds(300)) {}
};

TEST_F(ImpatientBulk, MakesAnotherConnectionWhenNothingComesAnyMore) {
  BulkListener broker(folder_.endpoint("broker"));
  connect();
  fetch();
  EXPECT_TRUE(wait_until([&] {
    broker.serve_the_third();
    reports_ = link_->poll();
    return !reports_.empty();
  }));
  EXPECT_GE(broker.connections(), 3);
  expect_blob();
}

TEST_F(Bulk, BelievesNobodyWithoutTheProof) {
  BulkListener broker(folder_.endpoint("broker"));
  connect("the proof");
  fetch();
  for (const char* proof : {"", "a guess"}) {
    ASSERT_TRUE(broker.hear<message::HelloBulk>());
    broker.say(message::BlobChunk{kBlob.id, 0, {Bytes::copy("lies"), 0, 0}});
    broker.say(message::BlobGone{kBlob.id, "lies"});
    broker.say(message::Refuse{message::RefuseCode::identity, "go away"});
    broker.welcome(proof);
  }
  ASSERT_TRUE(broker.hear<message::HelloBulk>());
  EXPECT_EQ(broker.everything_heard(), "HELLO_BULK HELLO_BULK HELLO_BULK ");
  broker.welcome("the proof");
  broker.serve(40);
  expect_blob();
}

TEST_F(Bulk, ServesWhatTasksReturnedAsSoonAsItIsTold) {
  BulkListener broker(folder_.endpoint("broker"));
  connect();
  const BlobName result{{9, 2}, 11};
  std::ofstream(folder_.path("memory/incoming/") + to_hex(result.id) + "." + to_hex(kWorker))
      << "hello world";
  ask(BlobRequest::Kind::keep, result);
  ASSERT_TRUE(broker.hear<message::HelloBulk>());
  broker.welcome();
  broker.say(message::BlobWant{result.id, 0, 11});
  const auto chunk = broker.hear<message::BlobChunk>();
  ASSERT_TRUE(chunk);
  EXPECT_EQ(chunk->content.bytes.text(), "hello world");
  ask(BlobRequest::Kind::drop, result);
  broker.say(message::BlobWant{result.id, 0, 11});
  EXPECT_TRUE(broker.hear<message::BlobGone>());
}

TEST_F(Bulk, FollowsTheBrokerToAnotherEndpoint) {
  BulkListener broker(folder_.endpoint("broker"));
  connect();
  fetch();
  ASSERT_TRUE(broker.hear<message::HelloBulk>());
  broker.welcome();
  broker.serve(10);
  for (int i = 0; i < 12; ++i) ASSERT_TRUE(broker.hear<message::BlobWant>());
  link_->connect({});
  BulkListener next(folder_.endpoint("next"));
  link_->connect({folder_.endpoint("next"), {}, ""});
  ASSERT_TRUE(next.hear<message::HelloBulk>());
  next.welcome();
  next.serve(30);
  expect_blob();
}

}  // namespace
}  // namespace muster
