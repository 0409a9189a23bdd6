// The daemons as services: what they tell the manager that started them, and when.
#include <gtest/gtest.h>

#include "tests/support/service_manager.hpp"
#include "tests/system/daemons.hpp"

namespace muster::testing {
namespace {

class Service : public Daemons {
 protected:
  ChildOptions service_options(const std::string& watchdog_microseconds = "") const {
    ChildOptions options;
    options.environment = {"NOTIFY_SOCKET=" + address_};
    if (!watchdog_microseconds.empty()) {
      options.environment.push_back("WATCHDOG_USEC=" + watchdog_microseconds);
    }
    return options;
  }
  std::unique_ptr<Child> start_broker_service() {
    return std::make_unique<Child>(Words{MUSTER_BIN_DIR "/muster-broker", "--listen", endpoint_},
                                   service_options("100000"));
  }

  const std::string address_ = folder_.path("notify");
  HearingManager manager_{address_};
};

TEST_F(Service, TheBrokerIsReadyWhenItListensAndSaysThatItStops) {
  const auto broker = start_broker_service();
  ASSERT_TRUE(manager_.wait_for("READY=1\n")) << broker->error_output();
  EXPECT_NE(status_json().find("\"total_slots\": 0"), std::string::npos) << "it is ready indeed";
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(manager_.wait_for("WATCHDOG=1\n")) << "an idle loop turns as well";
  }
  broker->signal(SIGTERM);
  EXPECT_TRUE(manager_.wait_for("STOPPING=1\n")) << manager_.last_heard();
  EXPECT_EQ(broker->wait(), 0) << broker->error_output();
}

TEST_F(Service, AWorkerIsReadyBeforeItsBrokerAndSaysWhetherThereIsOne) {
  const auto worker = start_worker({}, service_options());
  ASSERT_TRUE(manager_.wait_for("READY=1\n")) << worker->error_output();
  EXPECT_NE(manager_.last_heard().find("STATUS=not connected"), std::string::npos)
      << manager_.last_heard();
  const auto broker = start_broker();
  EXPECT_TRUE(manager_.wait_for("STATUS=connected to its broker\n")) << manager_.last_heard();
}

TEST_F(Service, TheWatchdogIsFedWhileATaskRunsAndWhileTheWorkerDrains) {
  const auto broker = start_broker();
  const auto worker = start_worker({}, service_options("100000"));
  const auto run = start_run(kStartAndWait, {"1"});
  ASSERT_TRUE(wait_for_lines("starts", 1)) << run->error_output();
  while (!manager_.hear().empty()) {
  }
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(manager_.wait_for("WATCHDOG=1\n"));
  worker->signal(SIGTERM);
  ASSERT_TRUE(manager_.wait_for("STOPPING=1\n")) << manager_.last_heard();
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(manager_.wait_for("WATCHDOG=1\n"));
  touch("go");
  EXPECT_EQ(run->wait(), 0) << run->error_output();
  EXPECT_EQ(run->output(), "1\n");
  EXPECT_EQ(worker->wait(), 0) << worker->error_output();
}

// The words of a frozen loop stop: that is how the manager knows. Two intervals of silence are
// measured from the moment when what it had said before is read.
TEST_F(Service, AFrozenWorkerDoesNotFeedTheWatchdog) {
  const auto broker = start_broker();
  const auto worker = start_worker({}, service_options("100000"));
  ASSERT_TRUE(manager_.wait_for("WATCHDOG=1\n")) << worker->error_output();
  worker->signal(SIGSTOP);
  const std::string stat = "/proc/" + std::to_string(worker->pid()) + "/stat";
  ASSERT_TRUE(wait_until([&] {
    std::ifstream file(stat);
    std::string word;
    return file >> word >> word >> word && word == "T";
  }));
  while (!manager_.hear().empty()) {
  }
  EXPECT_FALSE(
      wait_until([&] { return !manager_.hear().empty(); }, std::chrono::milliseconds(200)));
  worker->signal(SIGCONT);
  EXPECT_TRUE(manager_.wait_for("WATCHDOG=1\n"));
}

TEST_F(Service, TasksDoNotSpeakForTheService) {
  const auto broker = start_broker();
  const auto worker = start_worker({}, service_options("30000000"));
  const auto run = start_run("echo {} ${NOTIFY_SOCKET-none} ${WATCHDOG_USEC-none}", {"1"});
  EXPECT_EQ(run->wait(), 0) << run->error_output();
  EXPECT_EQ(run->output(), "1 none none\n");
}

}  // namespace
}  // namespace muster::testing
