// The program muster-broker as a person or a parent process meets it.
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "tests/support/child.hpp"

namespace muster {
namespace {

using testing::Child;
using testing::ChildOptions;
using testing::Finished;
using testing::make_pipe;
using testing::Pipe;
using testing::run_to_end;
using testing::TemporaryFolder;

const std::string kBroker = MUSTER_BIN_DIR "/muster-broker";

long line_count(const std::string& text) { return std::count(text.begin(), text.end(), '\n'); }
bool contains(const std::string& text, std::string_view part) {
  return text.find(part) != std::string::npos;
}

class BrokerProgram : public ::testing::Test {
 protected:
  Finished run(std::vector<std::string> arguments, const ChildOptions& options = {}) {
    arguments.insert(arguments.begin(), kBroker);
    return run_to_end(arguments, options);
  }
  // Expects a start that fails as every program of ours does: status 2, one line, naming `word`.
  void expect_refused(const std::vector<std::string>& arguments, std::string_view word) {
    const Finished ended = run(arguments);
    EXPECT_EQ(ended.status, 2) << ended.error_output;
    EXPECT_TRUE(contains(ended.error_output, word)) << word << " in: " << ended.error_output;
    EXPECT_EQ(ended.output, "");
  }
  std::string write_config(const std::string& text) {
    std::string path = folder_.path("broker.toml");
    std::ofstream(path) << text;
    return path;
  }

  TemporaryFolder folder_;
  const std::string endpoint_ = folder_.endpoint("b");
};

TEST_F(BrokerProgram, HelpNamesEveryOption) {
  const Finished ended = run({"--help"});
  EXPECT_EQ(ended.status, 0);
  for (const char* option : {"--listen", "--config", "--heartbeat-interval", "--credit-tasks",
                             "--session-grace", "--lifeline", "--log-level", "--version"}) {
    EXPECT_TRUE(contains(ended.output, option)) << option;
  }
  EXPECT_EQ(ended.error_output, "");
}

TEST_F(BrokerProgram, VersionIsOneLine) {
  const Finished ended = run({"--version"});
  EXPECT_EQ(ended.status, 0);
  EXPECT_EQ(ended.output, MUSTER_VERSION "\n");
}

TEST_F(BrokerProgram, BadOptionsEndWithStatusTwoAndNameTheOption) {
  expect_refused({}, "--listen");
  expect_refused({"--listen", endpoint_, "--no-such-option"}, "--no-such-option");
  expect_refused({"--listen", endpoint_, "--heartbeat-interval", "0"}, "--heartbeat-interval");
  expect_refused({"--listen", endpoint_, "--heartbeat-interval", "soon"}, "--heartbeat-interval");
  expect_refused({"--listen", endpoint_, "--heartbeat-misses", "1"}, "--heartbeat-misses");
  expect_refused({"--listen", endpoint_, "--credit-tasks", "0"}, "--credit-tasks");
  expect_refused({"--listen", endpoint_, "--credit-bytes", "much"}, "--credit-bytes");
  expect_refused({"--listen", endpoint_, "--session-grace", "-1"}, "--session-grace");
  expect_refused({"--listen", endpoint_, "--log-level", "loud"}, "--log-level");
}

TEST_F(BrokerProgram, AFormerNameOfAnOptionIsRefusedWithItsNameOfToday) {
  expect_refused({"--listen", endpoint_, "--memo-limit", "1GB"}, "is now called --store-limit");
}

TEST_F(BrokerProgram, BadEndpointsEndWithOneLineThatSaysWhatToDo) {
  const auto expect_line = [&](const std::string& endpoint, std::string_view advice) {
    const Finished ended = run({"--listen", endpoint, "--log-level", "off"});
    EXPECT_EQ(ended.status, 2) << endpoint;
    EXPECT_EQ(line_count(ended.error_output), 1) << ended.error_output;
    EXPECT_TRUE(contains(ended.error_output, advice)) << ended.error_output;
  };
  expect_line("tcp://127.0.0.1:5555", "use ipc:///path/to/socket");
  expect_line("/tmp/socket", "ipc:///path/to/socket");
  expect_line(folder_.endpoint(std::string(200, 'x')), "shorter");
  expect_line("ipc:///proc/muster/b", "folder");
}

TEST_F(BrokerProgram, ConfigFileSetsOptions) {
  const std::string config =
      write_config("listen = \"" + endpoint_ + "\"\nlog-level = \"info\"\ncredit-tasks = 7\n");
  Child broker({kBroker, "--config", config});
  ASSERT_TRUE(broker.wait_for_output("listening on " + endpoint_)) << broker.error_output();
  broker.signal(SIGTERM);
  EXPECT_EQ(broker.wait(), 0) << broker.error_output();
}

TEST_F(BrokerProgram, BadConfigKeyIsNamed) {
  const std::string config = write_config("hartbeat-interval = 3\n");
  expect_refused({"--listen", endpoint_, "--config", config}, "hartbeat-interval");
  expect_refused({"--listen", endpoint_, "--config", folder_.path("missing.toml")}, "missing.toml");
}

TEST_F(BrokerProgram, EndpointComesFromTheEnvironment) {
  ChildOptions options;
  options.environment = {"MUSTER_BROKER=" + endpoint_};
  Child broker({kBroker}, options);
  EXPECT_TRUE(broker.wait_for_output("listening on " + endpoint_)) << broker.error_output();
}

TEST_F(BrokerProgram, TheEndpointOfAnotherBrokerIsRefusedAndStaysItsOwn) {
  Child first({kBroker, "--listen", endpoint_});
  ASSERT_TRUE(first.wait_for_output("listening on")) << first.error_output();
  const Finished second = run({"--listen", endpoint_, "--log-level", "off"});
  EXPECT_EQ(second.status, 2);
  EXPECT_EQ(line_count(second.error_output), 1) << second.error_output;
  EXPECT_TRUE(contains(second.error_output, "another broker already listens on"))
      << second.error_output;
  EXPECT_TRUE(std::filesystem::exists(folder_.path("b")));
  first.signal(SIGTERM);
  EXPECT_EQ(first.wait(), 0);
}

TEST_F(BrokerProgram, SignalsEndItAndRemoveTheSocket) {
  for (const int signal : {SIGTERM, SIGINT}) {
    Child broker({kBroker, "--listen", folder_.endpoint("deep/b")});
    ASSERT_TRUE(broker.wait_for_output("listening on")) << broker.error_output();
    struct stat status {};
    ASSERT_EQ(stat(folder_.path("deep").c_str(), &status), 0);
    EXPECT_EQ(status.st_mode & 0777U, 0700U) << "the folder is for this user only";
    EXPECT_EQ(stat(folder_.path("deep/b").c_str(), &status), 0);
    EXPECT_EQ(status.st_mode & 0077U, 0U) << "the socket is for this user only";
    broker.signal(signal);
    EXPECT_EQ(broker.wait(), 0) << broker.error_output();
    EXPECT_FALSE(std::filesystem::exists(folder_.path("deep/b")));
    EXPECT_FALSE(std::filesystem::exists(folder_.path("deep/b.lock")));
  }
}

TEST_F(BrokerProgram, AKilledBrokerLeavesNothingInTheWayOfTheNext) {
  {
    Child broker({kBroker, "--listen", endpoint_});
    ASSERT_TRUE(broker.wait_for_output("listening on")) << broker.error_output();
    broker.signal(SIGKILL);
    EXPECT_EQ(broker.wait(), 128 + SIGKILL);
  }
  Child next({kBroker, "--listen", endpoint_});
  EXPECT_TRUE(next.wait_for_output("listening on")) << next.error_output();
}

TEST_F(BrokerProgram, TheLifelinesEndEndsIt) {
  Pipe lifeline = make_pipe();
  ChildOptions options;
  options.descriptors = {{lifeline.read_end.get(), 10}};
  Child broker({kBroker, "--listen", endpoint_, "--lifeline", "10"}, options);
  ASSERT_TRUE(broker.wait_for_output("listening on")) << broker.error_output();
  lifeline.write_end.reset();
  EXPECT_EQ(broker.wait(), 0) << broker.error_output();
  EXPECT_FALSE(std::filesystem::exists(folder_.path("b")));
}

TEST_F(BrokerProgram, ListensOnSeveralEndpoints) {
  Child broker({kBroker, "--listen", endpoint_, "--listen", folder_.endpoint("c")});
  EXPECT_TRUE(broker.wait_for_output("listening on " + folder_.endpoint("c")));
  EXPECT_TRUE(std::filesystem::exists(folder_.path("b")));
}

}  // namespace
}  // namespace muster
