// Which broker a program finds that names none.
#include "producer/client/discovery.hpp"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>

#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <muster/producer.hpp>
#include <thread>

#include "tests/support/child.hpp"

namespace muster::testing {
namespace {

// In an environment with a runtime folder of its own.
class Discovery : public ::testing::Test {
 protected:
  Discovery() {
    ::setenv("XDG_RUNTIME_DIR", folder_.path(".").c_str(), 1);
    ::setenv("MUSTER_BIN_DIR", MUSTER_BIN_DIR, 1);
    ::unsetenv("MUSTER_BROKER");
  }
  ~Discovery() override { ::unsetenv("XDG_RUNTIME_DIR"); }

  std::unique_ptr<Child> start_broker() {
    const std::vector<std::string> argv = {MUSTER_BIN_DIR "/muster-broker", "--listen", endpoint_};
    auto broker = std::make_unique<Child>(argv);
    EXPECT_TRUE(wait_until([&] { return broker_runs(endpoint_); })) << broker->error_output();
    return broker;
  }

  TemporaryFolder folder_;
  const std::string runtime_ = folder_.path("./muster");
  const std::string endpoint_ = "ipc://" + runtime_ + "/broker";
};

TEST_F(Discovery, NothingRuns) {
  EXPECT_EQ(runtime_folders().front(), runtime_);
  EXPECT_FALSE(broker_runs(endpoint_));
  EXPECT_NE(running_broker(), endpoint_);
}

TEST_F(Discovery, ARunningBrokerIsFound) {
  const auto broker = start_broker();
  EXPECT_EQ(running_broker(), endpoint_);
  EXPECT_EQ(default_endpoint(), endpoint_);
  EXPECT_EQ(endpoint_or_default("ipc:///other"), "ipc:///other");
  EXPECT_EQ(Producer().endpoint(), endpoint_);
}

TEST_F(Discovery, WhatAKilledBrokerLeftIsNone) {
  const auto broker = start_broker();
  broker->signal(SIGKILL);
  broker->wait();
  ASSERT_TRUE(std::filesystem::exists(runtime_ + "/broker"));
  EXPECT_NE(running_broker(), endpoint_);
}

TEST_F(Discovery, AFolderThatOthersMayEnterIsPassedOver) {
  const auto broker = start_broker();
  ::chmod(runtime_.c_str(), 0755);
  EXPECT_NE(running_broker(), endpoint_);
  EXPECT_NE(folder_complaint(runtime_).find("chmod 700"), std::string::npos);
  ::chmod(runtime_.c_str(), 0700);
  EXPECT_EQ(folder_complaint(runtime_), "");
  EXPECT_EQ(running_broker(), endpoint_);
}

TEST_F(Discovery, ALinkIsNoFolder) {
  const auto broker = start_broker();
  std::filesystem::rename(runtime_, folder_.path("elsewhere"));
  std::filesystem::create_symlink(folder_.path("elsewhere"), runtime_);
  EXPECT_NE(running_broker(), endpoint_);
}

TEST_F(Discovery, TheEnvironmentComesFirst) {
  const auto broker = start_broker();
  ::setenv("MUSTER_BROKER", "ipc:///named/broker", 1);
  EXPECT_EQ(default_endpoint(), "ipc:///named/broker");
  ::setenv("MUSTER_BROKER", "", 1);  // a pool of this program's own is wanted
  EXPECT_EQ(default_endpoint(), "");
  EXPECT_NE(Producer().endpoint(), endpoint_);
  ::unsetenv("MUSTER_BROKER");
}

TEST_F(Discovery, AProgramThatShapesAPoolGetsOne) {
  const auto broker = start_broker();
  Options shaped;
  shaped.slots = 1;
  EXPECT_NE(Producer(shaped).endpoint(), endpoint_);
  Options insists;
  insists.embedded = true;
  EXPECT_NE(Producer(insists).endpoint(), endpoint_);
  ::setenv("MUSTER_BROKER", endpoint_.c_str(), 1);
  EXPECT_EQ(Producer(shaped).endpoint(), endpoint_);
  EXPECT_NE(Producer(insists).endpoint(), endpoint_);
  ::unsetenv("MUSTER_BROKER");
}

// Looking for a broker holds its lock for a moment: that must not keep one from starting.
TEST_F(Discovery, LookingDoesNotKeepABrokerFromStarting) {
  {
    const auto broker = start_broker();
    broker->signal(SIGKILL);
    broker->wait();
  }
  std::atomic<bool> over{false};
  std::thread looker([&] {
    while (!over) running_broker();
  });
  for (int i = 0; i < 5; ++i) {
    const auto broker = start_broker();
    broker->signal(SIGKILL);
    broker->wait();
  }
  over = true;
  looker.join();
}

TEST_F(Discovery, AStoppedBrokerListensAndWhatAKilledOneLeftDoesNot) {
  EXPECT_FALSE(somebody_listens(endpoint_)) << "there is no such folder";
  EXPECT_FALSE(somebody_listens("ipc://" + std::string(200, 'x')));
  EXPECT_FALSE(somebody_listens(""));
  const auto broker = start_broker();
  EXPECT_TRUE(somebody_listens(endpoint_));
  broker->signal(SIGSTOP);
  EXPECT_TRUE(somebody_listens(endpoint_));
  broker->signal(SIGKILL);
  broker->wait();
  EXPECT_TRUE(std::filesystem::exists(runtime_ + "/broker"));
  EXPECT_FALSE(somebody_listens(endpoint_));
}

}  // namespace
}  // namespace muster::testing
