// What the store server answers, and when: one computes and the others wait; values that arrive in
// pieces; what dies, what repeats itself, and what asks for too much.
#include "broker/stores/store_server.hpp"

#include <gtest/gtest.h>

#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tests/support/child.hpp"
#include "tests/support/little_memory.hpp"

namespace muster {
namespace {

constexpr std::size_t kLimit = std::size_t{1} << 20;
const StoreOrigin kWorker{true, 1, 1};
const StoreOrigin kProducer{false, 2, 2};
const StoreAsker kFirst{kWorker, 1};
const StoreAsker kSecond{kWorker, 2};
const StoreAsker kElsewhere{kProducer, 1};

StoreQuestion question(StoreOperation operation, const std::string& key) {
  StoreQuestion question;
  question.operation = operation;
  question.store = "s";
  question.key = key;
  return question;
}
StoreQuestion piece(const std::string& key, std::uint64_t offset, std::size_t bytes,
                    std::uint64_t size_bytes) {
  StoreQuestion its = question(StoreOperation::put, key);
  its.offset = offset;
  its.value = Bytes::copy(std::string(bytes, static_cast<char>('a' + offset % 26)));
  its.size_bytes = size_bytes;
  return its;
}
StoreQuestion value(const std::string& key, const std::string& content) {
  StoreQuestion its = question(StoreOperation::put, key);
  its.value = Bytes::copy(content);
  its.size_bytes = content.size();
  return its;
}

class StoreServerTest : public ::testing::Test {
 protected:
  StoreServerTest() {
    server_ = std::make_unique<StoreServer>(StoreOptions{spool(), kLimit, 1000});
  }
  std::string spool() const { return folder_.path("spool"); }

  // Returns the token.
  std::uint64_t say(const StoreAsker& asker, StoreQuestion question) {
    server_->ask(asker.origin, {++token_, asker.claimant, std::move(question)});
    return token_;
  }
  std::uint64_t claim(const StoreAsker& asker, const std::string& key) {
    return say(asker, question(StoreOperation::claim, key));
  }
  // The answer, once; an asker that is gone has none.
  std::optional<StoreReply> answer(std::uint64_t token) {
    settle();
    const auto found = answers_.find(token);
    if (found == answers_.end()) return std::nullopt;
    StoreReply reply = std::move(found->second);
    answers_.erase(found);
    return reply;
  }
  StoreReply ask(const StoreAsker& asker, StoreQuestion question) {
    auto reply = answer(say(asker, std::move(question)));
    EXPECT_TRUE(reply.has_value()) << "no answer";
    return reply.value_or(StoreReply{});
  }
  StoreStatus status(const StoreAsker& asker, StoreQuestion question) {
    return ask(asker, std::move(question)).status;
  }
  // The key's value, "(yours)" if it is the asker's to compute now, "(waits)".
  std::string got(std::uint64_t token) {
    const auto reply = answer(token);
    if (!reply) return "(waits)";
    if (reply->status == StoreStatus::yours) return "(yours)";
    return reply->status == StoreStatus::hit ? std::string(reply->value.text()) : "(no)";
  }
  std::string get(const std::string& key) {
    const StoreReply reply = ask(kElsewhere, question(StoreOperation::get, key));
    return reply.status == StoreStatus::hit ? std::string(reply.value.text()) : "(none)";
  }
  std::uint64_t counter(const std::string& name) {
    settle();
    for (const auto& [each, count] : server_->counters()) {
      if (each == "stored_" + name) return count;
    }
    return 0;
  }
  std::size_t files_in_incoming() const {
    for (const auto& entry : std::filesystem::directory_iterator(spool())) {
      if (!entry.path().filename().string().starts_with("incoming-")) continue;
      const std::filesystem::directory_iterator files(entry.path());
      return static_cast<std::size_t>(std::distance(begin(files), end(files)));
    }
    ADD_FAILURE() << "there is no such folder";
    return 0;
  }

  // All that was said has been heard: the server answers in order.
  void settle() {
    const StoreAsker last{{false, 99, 99}, 1};
    for (int i = 0; i < 2; ++i) {  // counters are told after the answers of a round
      const std::uint64_t token = say(last, question(StoreOperation::contains, "nothing"));
      const bool is_there = testing::wait_until([&] {
        for (AddressedReply& answer : server_->take_answers()) {
          answers_[answer.answer.token] = std::move(answer.answer.reply);
        }
        return answers_.count(token) != 0;
      });
      ASSERT_TRUE(is_there) << "the server is stuck";
      answers_.erase(token);
    }
  }

  testing::TemporaryFolder folder_;
  std::unique_ptr<StoreServer> server_;
  std::uint64_t token_ = 0;
  std::map<std::uint64_t, StoreReply> answers_;
};

// Without memory, for example: whoever asks is told, and later all is as before.
TEST_F(StoreServerTest, GoesOnAfterAQuestionThatItCannotAnswer) {
  if (!testing::LittleMemory::kWorks) GTEST_SKIP() << "a sanitizer takes memory as it likes";
  const std::string large(kStorePieceBytes, 'x');
  ASSERT_EQ(status(kFirst, value("large", large)), StoreStatus::done);
  std::size_t failed = 0;
  {
    const testing::LittleMemory little_memory(kStorePieceBytes / 2);
    // Their values stay here, until what the thread has is used up.
    for (int round = 0; round < 200 && failed == 0; ++round) {
      std::vector<std::uint64_t> tokens;
      for (int i = 0; i < 10; ++i) {
        tokens.push_back(say(kElsewhere, question(StoreOperation::get, "large")));
      }
      settle();
      for (const std::uint64_t token : tokens) {
        ASSERT_EQ(answers_.count(token), 1U) << "no answer";
        if (answers_.at(token).text.find("cannot answer") != std::string::npos) ++failed;
      }
    }
    answers_.clear();
  }
  EXPECT_GT(failed, 0U);
  EXPECT_EQ(get("large"), large);
  EXPECT_EQ(status(kFirst, value("another", "value")), StoreStatus::done);
}

TEST_F(StoreServerTest, OneComputesAndTheOthersGetItsValue) {
  const std::uint64_t first = claim(kFirst, "k");
  const std::uint64_t second = claim(kSecond, "k");
  const std::uint64_t third = claim(kElsewhere, "k");
  EXPECT_EQ(got(first), "(yours)");
  EXPECT_EQ(got(second), "(waits)");
  EXPECT_EQ(counter("waits"), 2U);
  EXPECT_EQ(status(kFirst, value("k", "the value")), StoreStatus::done);
  EXPECT_EQ(got(second), "the value");
  EXPECT_EQ(got(third), "the value");
  EXPECT_EQ(counter("waits"), 0U);
  EXPECT_EQ(counter("misses"), 3U);
  EXPECT_EQ(counter("hits"), 2U);
  EXPECT_EQ(got(claim(kFirst, "k")), "the value");
}

// How a computation may end without a value, and whether only the next in line goes on.
struct End {
  const char* name;
  std::function<void(StoreServer&)> happens;
  bool all_go_on;
};

class StoreServerEnds : public StoreServerTest, public ::testing::WithParamInterface<End> {};

TEST_P(StoreServerEnds, TheNextComputes) {
  const StoreAsker dying{{true, 7, 7}, 5};
  const std::uint64_t first = claim(dying, "k");
  const std::uint64_t second = claim(kSecond, "k");
  const std::uint64_t third = claim(kElsewhere, "k");
  EXPECT_EQ(got(first), "(yours)");
  EXPECT_EQ(got(second), "(waits)");
  GetParam().happens(*server_);
  EXPECT_EQ(got(second), "(yours)");
  EXPECT_EQ(got(third), GetParam().all_go_on ? "(yours)" : "(waits)");
  const std::uint64_t fourth = claim(kFirst, "k");
  EXPECT_EQ(got(fourth), "(waits)");
  EXPECT_EQ(status(kSecond, value("k", "v")), StoreStatus::done);
  EXPECT_EQ(got(fourth), "v");
  EXPECT_EQ(counter("waits"), 0U);
}

message::StoreRequest request(std::uint64_t claimant, StoreQuestion question) {
  return {12345, claimant, std::move(question)};
}
const StoreOrigin kDying{true, 7, 7};

INSTANTIATE_TEST_SUITE_P(
    Ways, StoreServerEnds,
    ::testing::Values(End{"TheWorkerDies", [](StoreServer& server) { server.gone(kDying); }, false},
                      End{"TheTaskEnds",
                          [](StoreServer& server) {
                            server.ask(kDying, request(5, question(StoreOperation::leave, "")));
                          },
                          false},
                      End{"TheConnectionIsNew",
                          [](StoreServer& server) {
                            server.ask(kDying, request(0, question(StoreOperation::leave, "")));
                          },
                          false},
                      End{"ItSaysSo",
                          [](StoreServer& server) {
                            server.ask(kDying, request(5, question(StoreOperation::release, "k")));
                          },
                          true},
                      End{"TheValueIsTooLarge",
                          [](StoreServer& server) {
                            server.ask(kDying, request(5, piece("k", 0, 1, 2 * kLimit)));
                          },
                          true}),
    [](const auto& test) { return std::string(test.param.name); });

TEST_F(StoreServerTest, APeerThatIsGoneGetsNoAnswer) {
  claim(kFirst, "k");
  const StoreAsker dying{kDying, 5};
  const std::uint64_t waits = claim(dying, "k");
  const std::uint64_t other = claim(kElsewhere, "k");
  server_->gone(kDying);
  EXPECT_EQ(status(kFirst, value("k", "v")), StoreStatus::done);
  EXPECT_FALSE(answer(waits).has_value());
  EXPECT_EQ(got(other), "v");
}

TEST_F(StoreServerTest, AClaimantThatAsksForSomethingElseIsNotHandedWhatItWaitedFor) {
  EXPECT_EQ(status(kElsewhere, value("there", "v")), StoreStatus::done);
  claim(kFirst, "k");
  const std::uint64_t waits = claim(kSecond, "k");
  EXPECT_EQ(got(claim(kSecond, "there")), "v");  // its wait was interrupted
  say(kFirst, question(StoreOperation::leave, ""));
  EXPECT_EQ(got(waits), "(waits)");
  EXPECT_EQ(got(claim(kElsewhere, "k")), "(yours)");
}

TEST_F(StoreServerTest, AValueInPiecesIsThereWhenItIsWhole) {
  const std::size_t whole = 600'000;  // more than an answer holds
  claim(kFirst, "k");
  const std::uint64_t waits = claim(kElsewhere, "k");
  EXPECT_EQ(status(kFirst, piece("k", 0, 200'000, whole)), StoreStatus::done);
  EXPECT_EQ(status(kFirst, piece("k", 200'000, 200'000, whole)), StoreStatus::done);
  EXPECT_EQ(got(waits), "(waits)");
  EXPECT_EQ(get("k"), "(none)");
  EXPECT_EQ(status(kFirst, piece("k", 200'000, 200'000, whole)), StoreStatus::done) << "said twice";
  EXPECT_EQ(status(kFirst, piece("k", 400'000, 200'000, whole)), StoreStatus::done);
  const auto found = answer(waits);
  ASSERT_TRUE(found.has_value());
  EXPECT_EQ(found->size_bytes, whole);
  EXPECT_EQ(std::filesystem::path(found->file).parent_path().parent_path(), spool());
  StoreQuestion read = question(StoreOperation::read, "k");
  read.version = found->version;
  read.offset = 199'999;
  read.size_bytes = 2;
  const std::string expected{static_cast<char>('a'), static_cast<char>('a' + 200'000 % 26)};
  EXPECT_EQ(ask(kElsewhere, read).value.text(), expected);
  EXPECT_EQ(files_in_incoming(), 0U);
}

// A piece that follows the first 100 bytes of 300, and the answer.
struct NextPiece {
  const char* name;
  std::uint64_t offset;
  std::size_t bytes;
  std::uint64_t size_bytes;
  StoreStatus answer;
};

class StoreServerPieces : public StoreServerTest,
                          public ::testing::WithParamInterface<NextPiece> {};

TEST_P(StoreServerPieces, IsAnsweredAndHarmsNothing) {
  EXPECT_EQ(status(kElsewhere, value("other", "v")), StoreStatus::done);
  claim(kFirst, "k");
  EXPECT_EQ(status(kFirst, piece("k", 0, 100, 300)), StoreStatus::done);
  const NextPiece& next = GetParam();
  EXPECT_EQ(status(kFirst, piece("k", next.offset, next.bytes, next.size_bytes)), next.answer);
  EXPECT_EQ(get("k"), "(none)");
  EXPECT_EQ(get("other"), "v") << "what can never fit costs nothing else";
  EXPECT_EQ(status(kFirst, piece("k", 0, 100, 300)), StoreStatus::done) << "it begins again";
  EXPECT_EQ(status(kFirst, piece("k", 100, 200, 300)), StoreStatus::done);
  EXPECT_EQ(get("k").size(), 300U);
  EXPECT_EQ(files_in_incoming(), 0U);
}

INSTANTIATE_TEST_SUITE_P(
    Odd, StoreServerPieces,
    ::testing::Values(NextPiece{"ALaterOne", 200, 100, 300, StoreStatus::changed},
                      NextPiece{"AnEarlierOne", 50, 100, 300, StoreStatus::done},
                      NextPiece{"OfAnotherSize", 100, 100, 301, StoreStatus::changed},
                      NextPiece{"MoreThanAnnounced", 100, 201, 300, StoreStatus::refused},
                      NextPiece{"FarAway", UINT64_MAX, 100, 300, StoreStatus::changed},
                      NextPiece{"OfNothing", 100, 0, 300, StoreStatus::done},
                      NextPiece{"OfMoreThanThereIs", 0, 1, UINT64_MAX, StoreStatus::refused},
                      NextPiece{"OfTooMuch", 0, 1, kLimit + 1, StoreStatus::refused},
                      NextPiece{"MoreThanItsOwnSize", 0, 100, 99, StoreStatus::refused}),
    [](const auto& test) { return std::string(test.param.name); });

TEST_F(StoreServerTest, WhatItsSenderGaveUpLeavesNothing) {
  const StoreAsker dying{kDying, 5};
  for (const char* key : {"a", "b"}) {
    EXPECT_EQ(status(dying, piece(key, 0, 100, 300)), StoreStatus::done);
  }
  EXPECT_EQ(status(kFirst, piece("a", 0, 100, 300)), StoreStatus::done) << "each has its own";
  EXPECT_EQ(files_in_incoming(), 3U);
  EXPECT_EQ(status(dying, question(StoreOperation::release, "a")), StoreStatus::done);
  EXPECT_EQ(files_in_incoming(), 2U);
  EXPECT_EQ(status(dying, piece("a", 100, 200, 300)), StoreStatus::changed) << "it begins again";
  server_->gone(kDying);
  settle();
  EXPECT_EQ(files_in_incoming(), 1U);
  say(kFirst, question(StoreOperation::leave, ""));
  settle();
  EXPECT_EQ(files_in_incoming(), 0U);
}

TEST_F(StoreServerTest, WhatArrivesAtOnceStaysWithinTheLimitToo) {
  const std::uint64_t most = 700'000;
  for (const StoreAsker& asker : {kFirst, kSecond}) {
    EXPECT_EQ(status(asker, piece("k" + std::to_string(asker.claimant), 0, 300'000, most)),
              StoreStatus::done);
  }
  const StoreReply refused = ask(kElsewhere, piece("k", 0, 500'000, most));
  EXPECT_EQ(refused.status, StoreStatus::refused) << "600,000 bytes are on their way";
  EXPECT_NE(refused.text.find("--store-limit"), std::string::npos) << refused.text;
  EXPECT_EQ(status(kFirst, piece("k1", 300'000, 400'000, most)), StoreStatus::done);
  EXPECT_EQ(status(kSecond, piece("k2", 300'000, 400'000, most)), StoreStatus::done);
  EXPECT_EQ(counter("bytes"), most) << "the first made room for the second";
  EXPECT_EQ(counter("evicted"), 1U);
  EXPECT_EQ(counter("values"), 1U);
}

TEST_F(StoreServerTest, TheLeastRecentlyUsedValueGoesFirst) {
  const std::string third(kLimit / 3, 'x');
  for (const char* key : {"a", "b", "c"}) {
    EXPECT_EQ(status(kFirst, value(key, third)), StoreStatus::done);
  }
  EXPECT_EQ(get("a"), third);
  EXPECT_EQ(got(claim(kSecond, "b")), third) << "an access, too";
  EXPECT_EQ(status(kSecond, question(StoreOperation::contains, "c")), StoreStatus::hit) << "none";
  EXPECT_EQ(status(kFirst, value("d", third)), StoreStatus::done);
  std::vector<std::string> keys;
  for (const StoreEntry& entry : ask(kFirst, question(StoreOperation::list, "")).entries) {
    keys.push_back(entry.key);
  }
  EXPECT_EQ(keys, (std::vector<std::string>{"a", "b", "d"}));
}

TEST_F(StoreServerTest, QuestionsThatMakeNoSenseAreAnswered) {
  EXPECT_EQ(status(kFirst, value("k", "value")), StoreStatus::done);
  EXPECT_EQ(status(kFirst, value("", "v")), StoreStatus::refused) << "no key";
  for (const char* file : {"..", "../lock", "/etc/passwd", ".1", "none"}) {
    StoreQuestion put = question(StoreOperation::put, "f");
    put.file = file;
    put.size_bytes = 5;
    EXPECT_EQ(status(kFirst, put), StoreStatus::refused) << file;
  }
  const std::uint64_t version = ask(kFirst, question(StoreOperation::get, "k")).version;
  struct Read {
    std::uint64_t version, offset, size_bytes;
    StoreStatus answer;
  };
  for (const Read& read :
       {Read{version, 1, 4, StoreStatus::hit}, Read{version, 5, 0, StoreStatus::hit},
        Read{version, 1, 5, StoreStatus::changed}, Read{version, 6, 0, StoreStatus::changed},
        Read{version, 1, UINT64_MAX, StoreStatus::changed},
        Read{version, UINT64_MAX, UINT64_MAX, StoreStatus::changed},
        Read{version + 1, 0, 1, StoreStatus::changed}}) {
    StoreQuestion asked = question(StoreOperation::read, "k");
    asked.version = read.version;
    asked.offset = read.offset;
    asked.size_bytes = read.size_bytes;
    EXPECT_EQ(status(kFirst, asked), read.answer) << read.offset << " " << read.size_bytes;
  }
  EXPECT_EQ(status(kSecond, question(StoreOperation::release, "k")), StoreStatus::done);
  EXPECT_EQ(get("k"), "value");
}

// --- What nodes may not

// What a worker asks about a key that has a value of a program's, and how it is answered.
struct Attack {
  const char* name;
  StoreOperation operation;
  StoreStatus answer;
};

class StoreServerAttack : public StoreServerTest, public ::testing::WithParamInterface<Attack> {};

TEST_P(StoreServerAttack, ChangesNoValue) {
  EXPECT_EQ(status(kElsewhere, value("k", "v")), StoreStatus::done);
  StoreQuestion attack = question(GetParam().operation, "k");
  attack.value = Bytes::copy("bomb");
  attack.size_bytes = 4;
  attack.limits.items = 0;
  EXPECT_EQ(status(kFirst, attack), GetParam().answer);
  EXPECT_EQ(get("k"), "v");
  attack.key = "";
  EXPECT_EQ(status(kFirst, attack), StoreStatus::refused);
  EXPECT_EQ(get("k"), "v");
}

INSTANTIATE_TEST_SUITE_P(
    Of, StoreServerAttack,
    ::testing::Values(Attack{"Put", StoreOperation::put, StoreStatus::refused},
                      Attack{"Remove", StoreOperation::remove, StoreStatus::refused},
                      Attack{"RemoveAll", StoreOperation::remove_all, StoreStatus::refused},
                      Attack{"Trim", StoreOperation::trim, StoreStatus::refused}),
    [](const auto& test) { return std::string(test.param.name); });

TEST_F(StoreServerTest, AWorkerSaysNoValueThatAnotherComputes) {
  const std::uint64_t theirs = claim(kElsewhere, "k");
  EXPECT_EQ(got(theirs), "(yours)");
  EXPECT_EQ(status(kFirst, value("k", "bomb")), StoreStatus::refused);
  EXPECT_EQ(status(kFirst, piece("k", 0, 100, 300)), StoreStatus::refused);
  EXPECT_EQ(status(kElsewhere, value("k", "v")), StoreStatus::done);
  EXPECT_EQ(get("k"), "v");
}

TEST_F(StoreServerTest, AClaimantThatWasToldToComputeMayPut) {
  const std::uint64_t first = claim(kFirst, "k");
  const std::uint64_t second = claim(kSecond, "k");
  EXPECT_EQ(got(first), "(yours)");
  EXPECT_EQ(status(kFirst, question(StoreOperation::release, "k")), StoreStatus::done);
  EXPECT_EQ(got(second), "(yours)");
  EXPECT_EQ(status(kSecond, value("k", "v")), StoreStatus::done);
  EXPECT_EQ(status(kSecond, value("k", "again")), StoreStatus::refused) << "once for each claim";
  EXPECT_EQ(get("k"), "v");
}

TEST_F(StoreServerTest, AValueThatItsFinderRejectsIsReplacedUnderAClaim) {
  EXPECT_EQ(status(kElsewhere, value("k", "old")), StoreStatus::done);
  StoreQuestion besides = question(StoreOperation::claim, "k");
  besides.version = ask(kFirst, question(StoreOperation::get, "k")).version;
  EXPECT_EQ(status(kFirst, besides), StoreStatus::yours);
  EXPECT_EQ(get("k"), "old") << "it stays until there is another";
  EXPECT_EQ(status(kFirst, value("k", "new")), StoreStatus::done);
  EXPECT_EQ(got(say(kSecond, besides)), "new") << "of another version";
}

}  // namespace
}  // namespace muster
