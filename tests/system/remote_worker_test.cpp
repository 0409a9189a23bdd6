// Real brokers and workers over TCP with keys, and peers that have none.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <algorithm>
#include <csignal>
#include <regex>

#include "common/net/key_file.hpp"
#include "common/net/transport.hpp"
#include "common/protocol/codec.hpp"
#include "tests/system/daemons.hpp"

namespace muster::testing {
namespace {

// A TCP connection that never says anything in ZeroMQ's words.
Descriptor connect_raw(const std::string& endpoint) {
  Descriptor socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port =
      htons(static_cast<std::uint16_t>(std::stoul(endpoint.substr(endpoint.rfind(':') + 1))));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  EXPECT_EQ(::connect(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  return socket;
}

class RemoteWorker : public Daemons {
 protected:
  RemoteWorker() {
    keygen("broker");
    keygen("node1");
    authorize("node1");
  }
  // Neither program says any secret, whatever it was asked to log.
  ~RemoteWorker() override {
    for (const auto& child : children_) {
      const std::string said = child->output() + child->error_output();
      for (const std::string& name : names_) {
        const std::string secret = read_key_file(folder_.path(name + ".key")).secret_key;
        EXPECT_EQ(said.find(secret), std::string::npos) << "the secret key of " << name;
      }
    }
  }

  void keygen(const std::string& name) {
    const Finished made = run_to_end({MUSTER_BIN_DIR "/muster", "keygen", "--name", name,
                                      "--output", folder_.path(name + ".key")});
    ASSERT_EQ(made.status, 0) << made.error_output;
    names_.push_back(name);
  }
  void authorize(const std::string& name) {
    std::ifstream line(folder_.path(name + ".key.pub"));
    std::ofstream(folder_.path("authorized"), std::ios::app) << line.rdbuf();
  }
  // Also waits until it listens, and notes where.
  Child& start_tcp_broker() {
    children_.push_back(
        start_broker({"--listen", "tcp://127.0.0.1:*", "--key", folder_.path("broker.key"),
                      "--authorized-workers", folder_.path("authorized"), "--log-level", "trace"}));
    Child& broker = *children_.back();
    EXPECT_TRUE(broker.wait_for_output("for workers")) << broker.error_output();
    std::smatch match;
    const std::string said = broker.error_output();
    if (std::regex_search(said, match, std::regex("tcp://127\\.0\\.0\\.1:[0-9]+"))) tcp_ = match[0];
    return broker;
  }
  Child& start_remote_worker(const std::string& name, const std::string& broker_key = "broker") {
    children_.push_back(std::make_unique<Child>(
        Words{MUSTER_BIN_DIR "/muster-worker", "--connect", tcp_, "--slots", "1", "--python",
              "none", "--key", folder_.path(name + ".key"), "--broker-key",
              folder_.path(broker_key + ".key.pub"), "--log-level", "trace"}));
    return *children_.back();
  }
  // A worker's Dealer without a program around it.
  CurveLogin login_of(const std::string& name) const {
    const KeyPair pair = read_key_file(folder_.path(name + ".key"));
    return {read_public_key(folder_.path("broker.key.pub")), pair.public_key, pair.secret_key};
  }
  bool has_slots(int count) {
    return wait_until([&] {
      return status_json().find("\"total_slots\": " + std::to_string(count)) != std::string::npos;
    });
  }
  void expect_work_done() {
    const auto run = start_run("echo did {}", {"1", "2", "3"});
    EXPECT_EQ(run->wait(), 0) << run->error_output();
    EXPECT_EQ(run->output(), "did 1\ndid 2\ndid 3\n");
  }

  std::string tcp_;
  std::vector<std::unique_ptr<Child>> children_;
  std::vector<std::string> names_;
};

TEST_F(RemoteWorker, WorksOverTcpWithKeysAndSurvivesTheBrokersRestart) {
  Child& broker = start_tcp_broker();
  Child& worker = start_remote_worker("node1");
  ASSERT_TRUE(has_slots(1)) << worker.error_output();
  expect_work_done();
  // Results of a size that is packed on the way.
  const auto large = start_run("yes {} | head -c 3000000", {"y", "z"});
  EXPECT_EQ(large->wait(), 0) << large->error_output();
  const std::string text = large->output();
  EXPECT_EQ(std::count(text.begin(), text.end(), 'z'), 1'500'000);
  broker.signal(SIGTERM);
  EXPECT_EQ(broker.wait(), 0) << broker.error_output();
  EXPECT_FALSE(std::filesystem::exists(folder_.path("broker.tunnel")));
  children_.push_back(start_broker({"--listen", tcp_, "--key", folder_.path("broker.key"),
                                    "--authorized-workers", folder_.path("authorized")}));
  ASSERT_TRUE(has_slots(1)) << children_.back()->error_output();
  expect_work_done();
  worker.signal(SIGTERM);
  EXPECT_EQ(worker.wait(), 0) << worker.error_output();
}

TEST_F(RemoteWorker, AKeyThatIsNotListedIsRefusedUntilItIs) {
  keygen("node2");
  Child& broker = start_tcp_broker();
  Child& worker = start_remote_worker("node2");
  EXPECT_TRUE(worker.wait_for_output("--authorized-workers")) << worker.error_output();
  EXPECT_TRUE(broker.wait_for_output("is not authorized")) << broker.error_output();
  EXPECT_EQ(status_json().find("\"node\""), std::string::npos);
  authorize("node2");
  broker.signal(SIGHUP);
  EXPECT_TRUE(has_slots(1)) << worker.error_output();
  // A list with a mistake changes nothing.
  std::ofstream(folder_.path("authorized"), std::ios::app) << "mistake\n";
  broker.signal(SIGHUP);
  EXPECT_TRUE(broker.wait_for_output("stay as they were")) << broker.error_output();
  expect_work_done();
  std::ofstream(folder_.path("authorized"), std::ios::trunc) << "# nobody\n";
  broker.signal(SIGHUP);
  EXPECT_EQ(worker.wait(), 2) << worker.error_output();
  EXPECT_NE(worker.error_output().find("no longer authorized"), std::string::npos);
}

TEST_F(RemoteWorker, AWrongBrokerKeyMeetsNobody) {
  keygen("impostor");
  Child& broker = start_tcp_broker();
  Child& lost = start_remote_worker("node1", "impostor");
  EXPECT_TRUE(lost.wait_for_output("is --broker-key its public key?")) << lost.error_output();
  EXPECT_EQ(broker.error_output().find("workers +1"), std::string::npos);
}

TEST_F(RemoteWorker, AProducerIsTurnedAwayThere) {
  start_tcp_broker();
  TransportContext context;
  Dealer dealer(context, tcp_, login_of("node1"));
  message::HelloProducer hello;
  hello.session = {1, 2};
  ASSERT_EQ(dealer.send(encode(hello, Packing::never)), SendResult::sent);
  std::optional<Frames> frames;
  ASSERT_TRUE(wait_until([&] { return (frames = dealer.receive()).has_value(); }));
  auto decoded = decode(*frames);
  auto* message = std::get_if<Message>(&decoded);
  ASSERT_TRUE(message != nullptr && std::holds_alternative<message::Refuse>(*message));
  EXPECT_EQ(std::get<message::Refuse>(*message).code, message::RefuseCode::identity);
}

TEST_F(RemoteWorker, StrangersDoNotDisturbAWorker) {
  Child& broker = start_tcp_broker();
  start_remote_worker("node1");
  ASSERT_TRUE(has_slots(1));
  const auto running = start_run(kStartAndWait, {"1"});
  ASSERT_TRUE(wait_for_lines("starts", 1)) << running->error_output();
  const std::vector<std::string> words = {
      "",                                               // half open
      "GET / HTTP/1.1\r\n\r\n",                         // another protocol
      std::string(64, '\xff'),                          // noise
      std::string("\xff\0\0\0\0\0\0\0\1\x7f\3\0", 12),  // the beginning of a greeting
      std::string("\xff\0\0\0\0\0\0\0\1\x7f\3\0NULL", 16) + std::string(48, '\0') + "\4\x26\5READY",
  };
  std::vector<Descriptor> strangers;
  for (int i = 0; i < 200; ++i) {
    strangers.push_back(connect_raw(tcp_));
    const std::string& word = words[static_cast<std::size_t>(i) % words.size()];
    EXPECT_EQ(::send(strangers.back().get(), word.data(), word.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(word.size()));
  }
  TransportContext context;
  const Dealer unknown(context, tcp_,
                       CurveLogin{login_of("node1").server_key, make_key_pair("x").public_key,
                                  make_key_pair("x").secret_key});
  touch("go");
  EXPECT_EQ(running->wait(), 0) << running->error_output();
  expect_work_done();
  EXPECT_EQ(lines_of("starts").size(), 1U) << "nothing ran twice";
  // Whoever does not log in is put out of doors.
  EXPECT_TRUE(wait_until([&] {
    return std::all_of(strangers.begin(), strangers.end(), [](const Descriptor& stranger) {
      char byte = 0;
      ssize_t count = 0;
      while ((count = ::recv(stranger.get(), &byte, 1, MSG_DONTWAIT)) > 0) {
      }
      return count == 0 || errno == ECONNRESET;
    });
  }));
  expect_work_done();
  broker.signal(SIGTERM);
  EXPECT_EQ(broker.wait(), 0) << broker.error_output();
}

TEST_F(RemoteWorker, ATunnelsEndAdmitsNobodyWithoutALogin) {
  Child& broker = start_tcp_broker();
  TransportContext context;
  Dealer none(context, endpoint_ + ".tunnel");
  Dealer wrong(context, endpoint_ + ".tunnel", PlainLogin{"node1", "guess"});
  Dealer key(context, endpoint_ + ".tunnel-curve", login_of("node1"));
  EXPECT_TRUE(wait_until([&] { return none.take_refused(); }));
  EXPECT_TRUE(wait_until([&] { return wrong.take_refused(); }));
  EXPECT_TRUE(wait_until([&] { return key.take_connected(); })) << "a standing worker's way";
  EXPECT_FALSE(none.take_connected() || wrong.take_connected());
  struct stat status {};
  ASSERT_EQ(stat(folder_.path("broker.tunnel").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0077U, 0U) << "the socket is for this user only";
  broker.signal(SIGTERM);
  EXPECT_EQ(broker.wait(), 0);
}

TEST_F(RemoteWorker, WhatCannotWorkIsSaidInOneLine) {
  const auto expect_line = [&](const Words& argv, const std::string& advice) {
    const Finished ended = run_to_end(argv);
    EXPECT_EQ(ended.status, 2) << advice;
    EXPECT_EQ(std::count(ended.error_output.begin(), ended.error_output.end(), '\n'), 1)
        << ended.error_output;
    EXPECT_NE(ended.error_output.find(advice), std::string::npos) << ended.error_output;
  };
  const std::string broker = MUSTER_BIN_DIR "/muster-broker";
  const std::string worker = MUSTER_BIN_DIR "/muster-worker";
  const std::string key = folder_.path("broker.key");
  const std::string list = folder_.path("authorized");
  const std::string tcp = "tcp://127.0.0.1:*";
  expect_line({broker, "--listen", endpoint_, "--listen", tcp}, "muster keygen");
  expect_line({broker, "--listen", endpoint_, "--listen", tcp, "--key", key},
              "--authorized-workers");
  expect_line({broker, "--listen", tcp, "--key", key, "--authorized-workers", list},
              "local endpoint");
  expect_line({broker, "--listen", endpoint_, "--key", folder_.path("none.key")}, "none.key");
  expect_line({broker, "--listen", endpoint_, "--authorized-workers", folder_.path("none")},
              "none");
  expect_line({worker, "--connect", "tcp://127.0.0.1:9"}, "muster keygen");
  expect_line({worker, "--connect", "tcp://127.0.0.1:9", "--key", key}, "--broker-key");
  expect_line({worker, "--connect", "tcp://127.0.0.1:9", "--key", key, "--broker-key", list + "x"},
              "authorizedx");
  chmod(key.c_str(), 0644);
  expect_line({broker, "--listen", endpoint_, "--key", key, "--log-level", "off"}, "chmod 600");
  expect_line({worker, "--connect", tcp, "--key", key, "--broker-key", key + ".pub"}, "chmod 600");
  chmod(key.c_str(), 0600);
}

TEST_F(RemoteWorker, KeygenSaysWhatItMadeAndReplacesNothing) {
  const Finished again = run_to_end({MUSTER_BIN_DIR "/muster", "keygen", "--name", "node1",
                                     "--output", folder_.path("node1.key")});
  EXPECT_EQ(again.status, 255);
  EXPECT_NE(again.error_output.find("--force"), std::string::npos) << again.error_output;
  const std::string before = read_key_file(folder_.path("node1.key")).secret_key;
  const Finished forced = run_to_end({MUSTER_BIN_DIR "/muster", "keygen", "--name", "node1",
                                      "--output", folder_.path("node1.key"), "--force"});
  EXPECT_EQ(forced.status, 0) << forced.error_output;
  const KeyPair pair = read_key_file(folder_.path("node1.key"));
  EXPECT_NE(pair.secret_key, before);
  EXPECT_NE(forced.output.find(public_line(pair)), std::string::npos) << forced.output;
  EXPECT_EQ(forced.output.find(pair.secret_key), std::string::npos);
  const Finished wrong = run_to_end({MUSTER_BIN_DIR "/muster", "keygen", "--name", "two words"});
  EXPECT_EQ(wrong.status, 255);
  EXPECT_NE(wrong.error_output.find("--name"), std::string::npos) << wrong.error_output;
}

}  // namespace
}  // namespace muster::testing
