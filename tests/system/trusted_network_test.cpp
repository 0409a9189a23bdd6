// Real brokers and workers over TCP on a network that its user trusts: a secret on both sides, and
// peers that have another one, or none.
#include <sys/stat.h>

#include <csignal>
#include <regex>

#include "common/net/key_file.hpp"
#include "common/net/transport.hpp"
#include "common/protocol/codec.hpp"
#include "tests/system/daemons.hpp"

namespace muster::testing {
namespace {

class TrustedNetwork : public Daemons {
 protected:
  TrustedNetwork() { make_secret("secret"); }
  // Neither program says any secret, whatever it was asked to log.
  ~TrustedNetwork() override {
    for (const auto& child : children_) {
      const std::string said = child->output() + child->error_output();
      EXPECT_EQ(said.find(secret_.password), std::string::npos);
      EXPECT_EQ(said.find(secret_.proof), std::string::npos);
    }
  }

  void make_secret(const std::string& name) {
    const Finished made = run_to_end(
        {MUSTER_BIN_DIR "/muster", "keygen", "--name", "cluster", "--secret", folder_.path(name)});
    ASSERT_EQ(made.status, 0) << made.error_output;
    EXPECT_EQ(made.output.find(read_secret_file(folder_.path(name)).password), std::string::npos);
    if (name == "secret") secret_ = read_secret_file(folder_.path(name));
  }
  Child& start_trusting_broker(const std::string& endpoint = "tcp://127.0.0.1:*") {
    children_.push_back(start_broker(
        {"--listen", endpoint, "--trust-network", folder_.path("secret"), "--log-level", "trace"}));
    Child& broker = *children_.back();
    EXPECT_TRUE(broker.wait_for_output("nothing there is encrypted")) << broker.error_output();
    std::smatch match;
    const std::string said = broker.error_output();
    if (std::regex_search(said, match, std::regex("tcp://127\\.0\\.0\\.1:[0-9]+"))) tcp_ = match[0];
    return broker;
  }
  Child& start_trusting_worker(const std::string& secret) {
    children_.push_back(std::make_unique<Child>(
        Words{MUSTER_BIN_DIR "/muster-worker", "--connect", tcp_, "--slots", "1", "--python",
              "none", "--secret", folder_.path(secret), "--log-level", "trace"}));
    return *children_.back();
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
  std::string broker_complaint(const Words& options) {
    const auto broker = start_broker(options);
    EXPECT_EQ(broker->wait(), 2);
    return broker->error_output();
  }

  SharedSecret secret_;
  std::string tcp_;
  std::vector<std::unique_ptr<Child>> children_;
};

TEST_F(TrustedNetwork, WorksOverTcpWithTheSecretAndSurvivesTheBrokersRestart) {
  Child& broker = start_trusting_broker();
  Child& worker = start_trusting_worker("secret");
  ASSERT_TRUE(has_slots(1)) << worker.error_output();
  expect_work_done();
  broker.signal(SIGTERM);
  EXPECT_EQ(broker.wait(), 0) << broker.error_output();
  start_trusting_broker(tcp_);
  ASSERT_TRUE(has_slots(1)) << worker.error_output();
  expect_work_done();
  worker.signal(SIGTERM);
  EXPECT_EQ(worker.wait(), 0) << worker.error_output();
}

TEST_F(TrustedNetwork, AnotherSecretIsRefused) {
  start_trusting_broker();
  make_secret("other");
  Child& worker = start_trusting_worker("other");
  EXPECT_TRUE(worker.wait_for_output("Trying again")) << worker.error_output();
  EXPECT_TRUE(wait_until([&] {
    return status_json().find("\"logins_refused\"") != std::string::npos;
  })) << status_json();
  EXPECT_TRUE(has_slots(0));
}

TEST_F(TrustedNetwork, AWorkerObeysNoBrokerWithoutItsSecretsProof) {
  start_trusting_broker();
  SharedSecret half = secret_;
  half.proof = make_shared_secret("cluster").proof;
  write_secret_file(folder_.path("half"), half, false);
  Child& worker = start_trusting_worker("half");
  EXPECT_TRUE(worker.wait_for_output("lacks the proof")) << worker.error_output();
}

TEST_F(TrustedNetwork, APeerWithoutTheSecretReachesNoDecoder) {
  start_trusting_broker();
  TransportContext context;
  const KeyPair keys = make_key_pair("cluster");
  const std::vector<Login> logins = {PlainLogin{secret_.name, "guessed", true},
                                     PlainLogin{"somebody", secret_.password, true},
                                     CurveLogin{keys.public_key, keys.public_key, keys.secret_key}};
  for (const Login& login : logins) {
    Dealer dealer(context, tcp_, login);
    dealer.send({Bytes::borrow("\xff no message")});
    EXPECT_TRUE(wait_until([&] { return dealer.take_refused(); })) << login.index();
    EXPECT_FALSE(dealer.take_connected());
  }
  EXPECT_EQ(status_json().find("messages_malformed"), std::string::npos);
  Dealer dealer(context, tcp_, PlainLogin{secret_.name, secret_.password, true});
  EXPECT_TRUE(wait_until([&] { return dealer.take_connected(); }));
}

TEST_F(TrustedNetwork, ProgramsCannotSubmitThere) {
  start_trusting_broker();
  TransportContext context;
  Dealer dealer(context, tcp_, PlainLogin{secret_.name, secret_.password, true});
  message::HelloProducer hello;
  hello.session = {1, 2};
  const Frames frames = encode(hello, Packing::never);
  ASSERT_TRUE(wait_until([&] { return dealer.send(Frames(frames)) == SendResult::sent; }));
  std::optional<Frames> answer;
  ASSERT_TRUE(wait_until([&] { return (answer = dealer.receive()).has_value(); }));
  const auto decoded = decode(*answer);
  const auto& refusal = std::get<message::Refuse>(std::get<Message>(decoded));
  EXPECT_EQ(refusal.code, message::RefuseCode::identity);
}

TEST_F(TrustedNetwork, NothingIsTrustedWithoutAProperSecret) {
  const std::string tcp = "tcp://127.0.0.1:*";
  EXPECT_NE(broker_complaint({"--listen", tcp}).find("--trust-network"), std::string::npos);
  EXPECT_NE(broker_complaint({"--listen", tcp, "--trust-network", folder_.path("absent")})
                .find("cannot read the secret"),
            std::string::npos);
  write_key_files(folder_.path("a.key"), make_key_pair("a"), false);
  EXPECT_NE(broker_complaint({"--listen", tcp, "--trust-network", folder_.path("a.key")})
                .find("muster keygen --secret"),
            std::string::npos);
  std::ofstream(folder_.path("authorized")) << "";
  EXPECT_NE(
      broker_complaint({"--listen", tcp, "--trust-network", folder_.path("secret"), "--key",
                        folder_.path("a.key"), "--authorized-workers", folder_.path("authorized")})
          .find("leave one of the two out"),
      std::string::npos);
  chmod(folder_.path("secret").c_str(), 0640);
  EXPECT_NE(broker_complaint({"--listen", tcp, "--trust-network", folder_.path("secret")})
                .find("open to others"),
            std::string::npos);
}

}  // namespace
}  // namespace muster::testing
