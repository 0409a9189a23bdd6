// A real broker that several users of the machine share: who is behind a connection is what the
// system says, whatever the peer says. Needs root, to be several users.
#include <grp.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <sstream>

#include "common/net/transport.hpp"
#include "common/protocol/codec.hpp"
#include "tests/support/child.hpp"

namespace muster {
namespace {

using testing::Child;
using testing::kPatience;
using testing::TemporaryFolder;
using testing::wait_until;

constexpr uid_t kAda = 20021;
constexpr uid_t kBob = 20022;
constexpr uid_t kEve = 20023;  // whose workers are admitted

// What a peer is told, one line for each message.
std::string describe(const Message& message) {
  std::string text = name_of(message);
  if (const auto* refuse = std::get_if<message::Refuse>(&message)) {
    text += " " + std::to_string(static_cast<int>(refuse->code)) + " " + refuse->text;
  } else if (const auto* answer = std::get_if<message::NodesAnswer>(&message)) {
    text += " " + answer->error;
  } else if (const auto* blobs = std::get_if<message::BlobAnswers>(&message)) {
    for (const BlobAnswer& blob : blobs->blobs) {
      text += " " + std::to_string(static_cast<int>(blob.state)) + " " + blob.text;
    }
  } else if (const auto* welcome = std::get_if<message::Welcome>(&message)) {
    for (const std::string& folder : welcome->blob_folders) text += " " + folder;
  } else if (const auto* status = std::get_if<message::Status>(&message)) {
    for (const auto& job : status->jobs) text += " session " + job.session;
    for (const auto& worker : status->workers) text += " worker " + worker.worker;
  }
  return text;
}

// Says these one after the other, and reads the answer to each.
std::string converse(const std::string& endpoint, const std::vector<Message>& messages) {
  TransportContext context;
  Dealer dealer(context, endpoint);
  std::ostringstream heard;
  for (const Message& message : messages) {
    dealer.send(encode(message, Packing::never));
    if (std::holds_alternative<message::Job>(message)) continue;  // has no answer
    wait_until([&] {
      while (auto frames = dealer.receive()) {
        auto decoded = decode(*frames);
        const auto* answer = std::get_if<Message>(&decoded);
        if (answer == nullptr || std::holds_alternative<message::Pool>(*answer) ||
            std::holds_alternative<message::Heartbeat>(*answer)) {
          continue;
        }
        heard << describe(*answer) << "\n";
        return true;
      }
      return false;
    });
  }
  return heard.str();
}

// What `act` returns when a process of this user runs it. The process is in the broker's group.
std::string run_as(uid_t user, const std::function<std::string()>& act) {
  testing::Pipe pipe = testing::make_pipe();
  const pid_t child = fork();
  if (child == 0) {
    const gid_t group = getegid();
    if (setgroups(1, &group) != 0 || setresgid(user, user, user) != 0 ||
        setresuid(user, user, user) != 0) {
      _exit(1);
    }
    const std::string text = act();
    _exit(write(pipe.write_end.get(), text.data(), text.size()) < 0 ? 1 : 0);
  }
  pipe.write_end.reset();
  std::string text;
  std::array<char, 4096> part{};
  for (ssize_t size = 0; (size = read(pipe.read_end.get(), part.data(), part.size())) > 0;) {
    text.append(part.data(), static_cast<std::size_t>(size));
  }
  int status = 0;
  waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
  return text;
}

message::HelloProducer producer(std::uint64_t session) {
  return {limits::kProtocolVersion, "0.1.0", {session, 77}, "test", false};
}
message::HelloWorker worker(std::uint64_t id) {
  message::HelloWorker hello;
  hello.software_version = "0.1.0";
  hello.worker = {id, 99};
  hello.node = "node";
  hello.executor = "thread";
  hello.slots = 1;
  return hello;
}

class GroupBroker : public ::testing::Test {
 protected:
  void SetUp() override {
    if (geteuid() != 0) GTEST_SKIP() << "needs root";
#if defined(__SANITIZE_THREAD__)
    GTEST_SKIP() << "forks";
#endif
    chmod(folder_.path(".").c_str(), 0711);
    broker_ = std::make_unique<Child>(std::vector<std::string>{
        MUSTER_BIN_DIR "/muster-broker", "--listen", endpoint_, "--blob-group", "--blob-folder",
        folder_.path("disk"), "--worker-users", std::to_string(kEve)});
    ASSERT_TRUE(broker_->wait_for_output("listening on")) << broker_->error_output();
    chmod(folder_.path("broker").c_str(), 0777);
  }
  void TearDown() override {
    if (!broker_) return;
    broker_->signal(SIGTERM);
    EXPECT_EQ(broker_->wait(), 0) << broker_->error_output();
  }
  std::string say_as(uid_t user, const std::vector<Message>& messages) {
    return run_as(user, [&] { return converse(endpoint_, messages); });
  }
  // The two folders, as WELCOME names them.
  std::vector<std::string> folders() {
    std::istringstream words(converse(endpoint_, {producer(1000)}));
    std::string word;
    std::vector<std::string> found;
    while (words >> word) {
      if (word.front() == '/') found.push_back(word);
    }
    return found;
  }

  TemporaryFolder folder_;
  const std::string endpoint_ = folder_.endpoint("broker");
  std::unique_ptr<Child> broker_;
};

bool has(const std::string& text, std::string_view part) {
  return text.find(part) != std::string::npos;
}

TEST_F(GroupBroker, ASessionIsItsUsersAlone) {
  EXPECT_TRUE(has(say_as(kAda, {producer(1)}), "WELCOME"));
  EXPECT_TRUE(has(say_as(kBob, {producer(1)}), "REFUSE 5 this session is another user's"));
  EXPECT_TRUE(has(converse(endpoint_, {producer(1)}), "REFUSE 5"));
  EXPECT_TRUE(has(say_as(kAda, {producer(1)}), "WELCOME")) << "nothing has changed";
}

TEST_F(GroupBroker, OnlyListedUsersBringWorkers) {
  const std::string said = say_as(kAda, {worker(1)});
  EXPECT_TRUE(has(said, "REFUSE 5")) << said;
  EXPECT_TRUE(has(said, "--worker-users")) << said;
  EXPECT_TRUE(has(say_as(kEve, {worker(2)}), "WELCOME"));
  EXPECT_TRUE(has(converse(endpoint_, {worker(3)}), "WELCOME"));
  EXPECT_TRUE(has(say_as(kEve, {worker(3)}), "REFUSE 5 this worker id is another user's"));
}

TEST_F(GroupBroker, AMemberNamesNoFilesAndNoNodes) {
  const std::string secret = folder_.path("secret");
  std::ofstream(secret) << "0123456789";
  chmod(secret.c_str(), 0600);
  const message::BlobPut put{{{{{1, 1}, 10}, BlobPlace::file, secret, 0}}};
  const message::NodesUp up{"hosts = [\"a\"]\nidentity_file = \"" + secret + "\"", "/pool.toml"};
  const std::string said = say_as(kAda, {producer(1), put, up});
  EXPECT_TRUE(has(said, "BLOB_ANSWER 2 ")) << said;
  EXPECT_TRUE(has(said, "NODES_ANSWER user 20021")) << said;
  EXPECT_TRUE(has(converse(endpoint_, {producer(2), put}), "BLOB_ANSWER 0"));
}

TEST_F(GroupBroker, StatusShowsNoIds) {
  JobSpec spec;
  spec.function.name = "f";
  const std::string said =
      say_as(kAda, {producer(0xabcdef), message::Job{JobId{1}, spec}, message::StatusRequest{}});
  EXPECT_TRUE(has(said, "session s1 (user 20021)")) << said;
  EXPECT_FALSE(has(said, "abcdef")) << said;
}

TEST_F(GroupBroker, WhatAMemberWroteIsTakenFromItAlone) {
  const std::vector<std::string> where = folders();
  ASSERT_EQ(where.size(), 2U);
  const std::string incoming = where[1] + "/incoming/";
  const auto put = [](std::uint64_t id, const std::string& file) {
    return message::BlobPut{{{{{1, id}, 10}, BlobPlace::disk, file, 0}}};
  };
  const auto write = [](const std::string& path) {
    std::ofstream(path) << "0123456789";
    chmod(path.c_str(), 0444);
    return std::string(std::filesystem::exists(path) ? "written" : "not written");
  };
  EXPECT_EQ(run_as(kAda, [&] { return write(incoming + "a.a"); }), "written");
  const std::string said = say_as(kBob, {producer(1), put(1, "a.a")});
  EXPECT_TRUE(has(said, "BLOB_ANSWER 2 ")) << said;
  EXPECT_TRUE(has(say_as(kAda, {producer(2), put(1, "a.a")}), "BLOB_ANSWER 0")) << "it is there";

  // Names have session ids.
  EXPECT_EQ(
      run_as(kAda, [&] { return std::string(access(incoming.c_str(), R_OK) ? "no" : "yes"); }),
      "no");
  // A link leads nowhere, neither a symbolic one nor, where the system lets anybody make one, to
  // another user's file.
  const std::string secret = folder_.path("disk/secret");
  std::ofstream(secret) << "0123456789";
  ASSERT_EQ(link(secret.c_str(), (incoming + "hard.a").c_str()), 0);
  run_as(kBob, [&] {
    return std::string(symlink(secret.c_str(), (incoming + "soft.a").c_str()) == 0 ? "" : "not");
  });
  const std::string links =
      say_as(kBob, {producer(3), put(2, "hard.a"), put(3, "soft.a"), put(2, "x/../hard.a")});
  EXPECT_FALSE(has(links, "BLOB_ANSWER 0")) << links;
  EXPECT_TRUE(std::filesystem::exists(incoming + "hard.a")) << "it is not his to take away";
}

}  // namespace
}  // namespace muster
