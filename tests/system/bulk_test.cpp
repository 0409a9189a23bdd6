// The real broker and peers by hand: blobs that a producer leaves in the folder, workers elsewhere
// that ask for them over bulk connections, results that come back there, and peers that lie.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <sstream>
#include <zmq.hpp>

#include "common/net/transport.hpp"
#include "common/protocol/blob_names.hpp"
#include "tests/support/child.hpp"
#include "tests/support/messages.hpp"

namespace muster {
namespace {

using message::RefuseCode;
using testing::Child;
using testing::kPatience;
using testing::TemporaryFolder;
using testing::wait_until;

constexpr std::uint64_t kChunk = limits::kBlobChunkBytes;

std::string content_of(std::uint64_t number, std::uint64_t size) {
  std::string content(size, '\0');
  for (std::uint64_t i = 0; i < size; ++i) content[i] = static_cast<char>(number + i * 7 + i / 251);
  return content;
}

class Peer {
 public:
  Peer(TransportContext& context, const std::string& endpoint) : dealer_(context, endpoint) {}

  void say(const Message& message) {
    EXPECT_EQ(dealer_.send(encode(message, Packing::never)), SendResult::sent);
  }
  // The next message but heartbeats, which are answered where `echoes` is set.
  std::optional<Message> hear(std::chrono::nanoseconds patience = kPatience) {
    std::optional<Message> heard;
    wait_until(
        [&] {
          while (auto frames = dealer_.receive()) {
            auto decoded = decode(*frames);
            if (!std::holds_alternative<Message>(decoded)) continue;
            heard = std::get<Message>(std::move(decoded));
            const auto* beat = std::get_if<message::Heartbeat>(&*heard);
            if (beat == nullptr && !std::holds_alternative<message::Pool>(*heard)) return true;
            if (beat != nullptr && beat->reply_wanted && echoes) {
              say(message::Heartbeat{beat->token, false});
            }
            heard.reset();
          }
          return false;
        },
        patience);
    return heard;
  }
  template <typename Kind>
  Kind expect() {
    const auto heard = hear();
    const bool is_it = heard && std::holds_alternative<Kind>(*heard);
    EXPECT_TRUE(is_it) << (heard ? name_of(*heard) : "nothing");
    return is_it ? std::get<Kind>(*heard) : Kind{};
  }
  void expect_refused(RefuseCode code) { EXPECT_EQ(expect<message::Refuse>().code, code); }

  bool echoes = true;

 private:
  Dealer dealer_;
};

class BulkTest : public ::testing::Test {
 protected:
  BulkTest() { start(); }
  ~BulkTest() override {
    EXPECT_TRUE(ask_status()) << broker_->error_output();
    broker_->signal(SIGTERM);
    EXPECT_EQ(broker_->wait(), 0) << broker_->error_output();
  }
  void start() {
    broker_ = std::make_unique<Child>(std::vector<std::string>{
        MUSTER_BIN_DIR "/muster-broker", "--listen", endpoint_, "--blob-memory", "64MB",
        "--blob-disk", "64MB", "--blob-folder", folder_.path("blobs")});
    EXPECT_TRUE(broker_->wait_for_output("listening on")) << broker_->error_output();
  }
  std::unique_ptr<Peer> connect() { return std::make_unique<Peer>(context_, endpoint_); }

  std::unique_ptr<Peer> producer(std::uint64_t number) {
    auto peer = connect();
    peer->say(
        message::HelloProducer{limits::kProtocolVersion, "0.1.0", {5, number}, "test", false});
    welcome_ = peer->expect<message::Welcome>();
    return peer;
  }
  std::unique_ptr<Peer> worker(const WorkerId& id) {
    auto peer = connect();
    message::HelloWorker hello;
    hello.software_version = "0.1.0";
    hello.worker = id;
    hello.node = "elsewhere";
    hello.executor = "process";
    hello.slots = 1;
    hello.functions = {"f"};
    peer->say(hello);
    peer->expect<message::Welcome>();
    return peer;
  }
  std::unique_ptr<Peer> bulk(const WorkerId& id) {
    auto peer = connect();
    peer->say(message::HelloBulk{limits::kProtocolVersion, "0.1.0", id});
    const auto welcome = peer->expect<message::Welcome>();
    EXPECT_TRUE(welcome.blob_folders.empty());
    EXPECT_EQ(welcome.blob_token, "");
    return peer;
  }
  // As a producer does it.
  BlobName put(Peer& producer, std::uint64_t number, std::uint64_t size) {
    const std::string content = content_of(number, size);
    const BlobName name{digest_of(std::as_bytes(std::span(content.data(), content.size()))), size};
    const std::string file = to_hex(name.id) + "." + to_hex(SessionId{5, 1});
    std::ofstream(welcome_.blob_folders.at(0) + "/incoming/" + file, std::ios::binary) << content;
    producer.say(message::BlobPut{{{name, BlobPlace::memory, file, 0}}});
    const auto answers = producer.expect<message::BlobAnswers>();
    EXPECT_EQ(answers.blobs.size(), 1U);
    if (!answers.blobs.empty()) {
      EXPECT_EQ(answers.blobs[0].state, BlobState::here) << answers.blobs[0].text;
    }
    return name;
  }
  void submit(Peer& producer, const std::vector<BlobName>& blobs) {
    JobSpec spec;
    spec.function = {FunctionKind::native, "f"};
    producer.say(message::Job{JobId{1}, spec});
    producer.say(message::Submit{JobId{1}, TaskSequence{0}, {with_blobs(blobs, {})}});
  }
  // A worker says that its task is done, with a result of these blobs.
  void finish(Peer& worker, const std::vector<BlobName>& blobs) {
    worker.say(message::WorkerOutcomes{
        {5, 1},
        JobId{1},
        std::chrono::milliseconds(1),
        {{TaskSequence{0}, Attempt{0}, {{OutcomeStatus::result, with_blobs(blobs, {})}}}}});
  }
  std::string stored(const BlobName& name) const {
    std::ostringstream text;
    text << std::ifstream(welcome_.blob_folders.at(0) + "/" + to_hex(name.id), std::ios::binary)
                .rdbuf();
    return text.str();
  }
  std::optional<message::Status> ask_status() {
    auto peer = connect();
    peer->say(message::HelloProducer{limits::kProtocolVersion, "0.1.0", {6, ++asked_}, "s", false});
    peer->expect<message::Welcome>();
    peer->say(message::StatusRequest{});
    auto status = peer->expect<message::Status>();
    peer->say(message::Goodbye{});
    return status;
  }
  std::uint64_t counter(std::string_view name) {
    const auto status = ask_status();
    if (!status) return 0;
    for (const auto& [key, count] : status->counters) {
      if (key == name) return count;
    }
    return 0;
  }

  TemporaryFolder folder_;
  std::string endpoint_ = folder_.endpoint("broker");
  std::unique_ptr<Child> broker_;
  TransportContext context_;
  message::Welcome welcome_;
  std::uint64_t asked_ = 0;
  const WorkerId worker_id_{7, 7};
};

TEST_F(BulkTest, AWorkerElsewhereGetsABlobChunkByChunk) {
  const auto program = producer(1);
  const BlobName blob = put(*program, 1, 20 * kChunk + 5);
  const auto main = worker(worker_id_);
  const auto link = bulk(worker_id_);
  std::string got;
  std::uint64_t asked = 0;
  while (got.size() < blob.size_bytes) {
    for (; asked < blob.size_bytes && asked < got.size() + 12 * kChunk; asked += kChunk) {
      link->say(message::BlobWant{
          blob.id, asked,
          static_cast<std::uint32_t>(std::min<std::uint64_t>(kChunk, blob.size_bytes - asked))});
    }
    const auto chunk = link->expect<message::BlobChunk>();
    ASSERT_EQ(chunk.blob, blob.id);
    ASSERT_EQ(chunk.offset, got.size());
    got += chunk.content.bytes.text();
  }
  EXPECT_TRUE(got == content_of(1, blob.size_bytes));
  EXPECT_TRUE(wait_until([&] { return counter("blob_bytes_sent") == blob.size_bytes; }));
}

TEST_F(BulkTest, AResultIsFetchedBeforeItsProducerHearsOfIt) {
  const auto program = producer(1);
  const auto main = worker(worker_id_);
  submit(*program, {});
  main->expect<message::WorkerJob>();
  main->expect<message::Tasks>();
  const BlobName blob{{1, 2}, 15 * kChunk + 7};
  const std::string content = content_of(3, blob.size_bytes);
  finish(*main, {blob});
  const auto link = bulk(worker_id_);
  for (int i = 0; i < 16; ++i) {
    const auto want = link->expect<message::BlobWant>();
    ASSERT_EQ(want.blob, blob.id);
    link->say(message::BlobChunk{
        blob.id, want.offset, {Bytes::copy(content.substr(want.offset, want.bytes)), 0}});
  }
  const auto outcomes = program->expect<message::Outcomes>();
  ASSERT_EQ(outcomes.runs.size(), 1U);
  EXPECT_EQ(blob_at(outcomes.runs[0].outcomes[0].body, 0), blob);
  EXPECT_TRUE(stored(blob) == content);
  EXPECT_TRUE(wait_until([&] { return counter("blob_bytes_received") == blob.size_bytes; }));
  main->expect<message::AcknowledgeLeases>();
  program->say(message::BlobRelease{{blob.id}});
  EXPECT_TRUE(wait_until([&] { return stored(blob).empty(); }));
}

TEST_F(BulkTest, ARestartedBrokerHasWhatItsProducersKeep) {
  const BlobName blob = put(*producer(1), 1, 3000);
  broker_->signal(SIGKILL);
  broker_->wait();
  start();
  const auto program = producer(1);
  program->say(
      message::BlobPut{{{blob, BlobPlace::kept, "", 0}, {{{1, 1}, 5}, BlobPlace::kept, "", 0}}});
  const auto answers = program->expect<message::BlobAnswers>();
  ASSERT_EQ(answers.blobs.size(), 2U);
  EXPECT_EQ(answers.blobs[0].state, BlobState::here);
  EXPECT_EQ(answers.blobs[1].state, BlobState::missing);
  EXPECT_EQ(stored(blob), content_of(1, 3000));
}

TEST_F(BulkTest, WhatCannotBeHadIsGoneAndNothingElseHappens) {
  const auto program = producer(1);
  const BlobName blob = put(*program, 1, 3000);
  const auto main = worker(worker_id_);
  const auto link = bulk(worker_id_);
  const auto expect_gone = [&](const message::BlobWant& want) {
    link->say(want);
    const auto gone = link->expect<message::BlobGone>();
    EXPECT_EQ(gone.blob, want.blob);
    EXPECT_NE(gone.reason, "");
  };
  expect_gone({{9, 9}, 0, 10});
  expect_gone({blob.id, 0, 3001});
  expect_gone({blob.id, 3000, 1});
  expect_gone({blob.id, UINT64_MAX, 10});
  link->say(message::BlobChunk{blob.id, 0, {Bytes::copy("unasked"), 0}});
  link->say(message::BlobGone{{9, 9}, "unasked"});
  link->say(message::BlobWant{blob.id, 2990, 10});
  EXPECT_EQ(link->expect<message::BlobChunk>().content.bytes.size(), 10U);
  EXPECT_EQ(counter("chunks_unwanted"), 1U);
}

TEST_F(BulkTest, AnUnknownWorkerIsToldSo) {
  const auto stranger = connect();
  stranger->say(message::BlobWant{{1, 1}, 0, 10});
  stranger->expect<message::Unknown>();
  stranger->say(message::HelloBulk{limits::kProtocolVersion, "0.1.0", worker_id_});
  stranger->expect<message::Unknown>();
  const auto main = worker(worker_id_);
  stranger->say(message::HelloBulk{limits::kProtocolVersion, "0.1.0", worker_id_});
  stranger->expect<message::Welcome>();
  main->say(message::Goodbye{});
  stranger->expect<message::Unknown>();
}

TEST_F(BulkTest, EveryConnectionIsOneThing) {
  const auto main = worker(worker_id_);
  main->say(message::HelloBulk{limits::kProtocolVersion, "0.1.0", worker_id_});
  main->expect_refused(RefuseCode::identity);
  const auto again = worker({7, 8});
  const auto link = bulk({7, 8});
  link->say(message::HelloBulk{limits::kProtocolVersion, "0.1.0", worker_id_});
  link->expect_refused(RefuseCode::identity);
  const auto other = bulk({7, 8});
  other->say(message::StatusRequest{});
  other->expect_refused(RefuseCode::out_of_order);
  const auto old = connect();
  old->say(message::HelloBulk{limits::kProtocolVersion + 1, "0.2.0", {7, 8}});
  old->expect_refused(RefuseCode::version);
  const auto third = bulk({7, 8});
  again->say(message::BlobWant{{1, 1}, 0, 10});
  again->expect_refused(RefuseCode::out_of_order);
}

TEST_F(BulkTest, APeerThatAsksWithoutEndIsRefused) {
  const auto program = producer(1);
  const BlobName blob = put(*program, 1, kChunk);
  const auto main = worker(worker_id_);
  const auto link = bulk(worker_id_);
  link->echoes = false;
  for (int i = 0; i < 200; ++i) {
    link->say(message::BlobWant{blob.id, 0, static_cast<std::uint32_t>(kChunk)});
  }
  std::uint64_t chunks = 0;
  while (true) {
    const auto heard = link->hear();
    ASSERT_TRUE(heard);
    if (std::holds_alternative<message::Refuse>(*heard)) break;
    ++chunks;
  }
  EXPECT_LE(chunks, 4 * limits::kBlobChunksAhead);
}

TEST_F(BulkTest, APeerThatDoesNotSayThatItReadsGetsNoMore) {
  const auto program = producer(1);
  const BlobName blob = put(*program, 1, kChunk);
  const auto main = worker(worker_id_);
  const auto link = bulk(worker_id_);
  link->echoes = false;
  std::uint64_t chunks = 0;
  for (int round = 0; round < 8; ++round) {
    for (int i = 0; i < 12; ++i) link->say(message::BlobWant{blob.id, 0, 100});
    while (chunks < 4 * limits::kBlobChunksAhead && chunks < std::uint64_t(round + 1) * 12) {
      link->expect<message::BlobChunk>();
      ++chunks;
    }
  }
  const std::uint64_t sent = counter("blob_bytes_sent");  // whatever else it was going to send
  EXPECT_LE(sent, 4 * limits::kBlobChunksAhead * 100);
  EXPECT_FALSE(link->hear(std::chrono::milliseconds(0)));
}

TEST_F(BulkTest, AResultLargerThanTheStoreFailsWithATextThatSaysSo) {
  const auto program = producer(1);
  const auto main = worker(worker_id_);
  const auto link = bulk(worker_id_);
  submit(*program, {});
  main->expect<message::WorkerJob>();
  main->expect<message::Tasks>();
  finish(*main, {{{1, 2}, std::uint64_t{1} << 50}});
  const auto outcomes = program->expect<message::Outcomes>();
  ASSERT_EQ(outcomes.runs.size(), 1U);
  const Outcome& outcome = outcomes.runs[0].outcomes[0];
  EXPECT_EQ(outcome.status, OutcomeStatus::error);
  const Failure failure = decode_failure(outcome.body.bytes);
  EXPECT_EQ(failure.kind, "result_too_large");
  EXPECT_NE(failure.message.find("no room"), std::string::npos) << failure.message;
}

}  // namespace
}  // namespace muster
