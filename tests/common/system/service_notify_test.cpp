// The words that a service manager hears, over real sockets and with the clock moved by hand.
#include "common/system/service_notify.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <vector>

#include "tests/support/child.hpp"
#include "tests/support/service_manager.hpp"

namespace muster {
namespace {

using namespace std::chrono_literals;

using Manager = testing::HearingManager;
using testing::TemporaryFolder;

class ServiceNotify : public ::testing::Test {
 protected:
  void SetUp() override { clear(); }
  void TearDown() override { clear(); }
  static void clear() {
    for (const char* name : kVariables) unsetenv(name);
  }
  static constexpr std::array<const char*, 3> kVariables = {"NOTIFY_SOCKET", "WATCHDOG_USEC",
                                                            "WATCHDOG_PID"};
  TemporaryFolder folder_;
  const std::string address_ = folder_.path("notify");
};

TEST_F(ServiceNotify, TheEnvironmentIsTakenAndChildrenDoNotSeeIt) {
  setenv("NOTIFY_SOCKET", address_.c_str(), 1);
  setenv("WATCHDOG_USEC", "30000000", 1);
  setenv("WATCHDOG_PID", std::to_string(getpid()).c_str(), 1);
  const ServiceManager manager = take_service_manager();
  EXPECT_EQ(manager.address, address_);
  EXPECT_EQ(manager.watchdog, 30s);
  for (const char* name : kVariables) EXPECT_EQ(getenv(name), nullptr) << name;
}

TEST_F(ServiceNotify, AWatchdogOfAnotherProcessIsNotOurs) {
  setenv("NOTIFY_SOCKET", address_.c_str(), 1);
  setenv("WATCHDOG_USEC", "30000000", 1);
  setenv("WATCHDOG_PID", "1", 1);
  EXPECT_EQ(take_service_manager().watchdog, 0s);
}

TEST_F(ServiceNotify, NonsenseInTheEnvironmentMeansNoManager) {
  const std::vector<std::string> addresses = {"", "vsock:2:1234", "relative",
                                              "/" + std::string(200, 'x')};
  for (const std::string& address : addresses) {
    setenv("NOTIFY_SOCKET", address.c_str(), 1);
    setenv("WATCHDOG_USEC", "30000000", 1);
    EXPECT_EQ(take_service_manager().address, "") << address;
  }
  for (const char* time : {"", "soon", "-5", "1x", "99999999999999999999999"}) {
    setenv("NOTIFY_SOCKET", address_.c_str(), 1);
    setenv("WATCHDOG_USEC", time, 1);
    const ServiceManager manager = take_service_manager();
    EXPECT_EQ(manager.address, address_) << time;
    EXPECT_EQ(manager.watchdog, 0s) << time;
  }
}

TEST_F(ServiceNotify, SaysEachChangeOnce) {
  Manager manager(address_);
  ServiceNotifier notifier({address_, 0s});
  notifier.turn(1s, ServiceState::ready, "waiting for its broker");
  EXPECT_EQ(manager.hear(), "READY=1\nSTATUS=waiting for its broker\n");
  EXPECT_EQ(notifier.next_deadline(), kNever);
  notifier.turn(2s, ServiceState::ready, "waiting for its broker");
  EXPECT_EQ(manager.hear(), "");
  notifier.turn(3s, ServiceState::ready, "two\nlines");
  EXPECT_EQ(manager.hear(), "STATUS=two lines\n");
  notifier.turn(4s, ServiceState::stopping, "draining");
  EXPECT_EQ(manager.hear(), "STOPPING=1\nSTATUS=draining\n");
  notifier.turn(5s, ServiceState::stopping, "draining");
  EXPECT_EQ(manager.hear(), "");
}

TEST_F(ServiceNotify, AnAbstractSocketIsHeardToo) {
  const std::string address = "@muster-test-" + folder_.path("notify");
  Manager manager(address);
  ServiceNotifier notifier({address, 0s});
  notifier.turn(1s, ServiceState::ready, "");
  EXPECT_EQ(manager.hear(), "READY=1\n");
}

// Signs of life come when the loop comes round and half of the time has passed, never without it.
TEST_F(ServiceNotify, TheWatchdogIsFedByTurnsOnly) {
  Manager manager(address_);
  ServiceNotifier notifier({address_, 10s});
  EXPECT_LE(notifier.next_deadline(), 100s) << "the first turn is due at once";
  notifier.turn(100s, ServiceState::ready, "");
  EXPECT_EQ(manager.hear(), "READY=1\nWATCHDOG=1\n");
  EXPECT_EQ(notifier.next_deadline(), 105s);
  notifier.turn(104s, ServiceState::ready, "");
  EXPECT_EQ(manager.hear(), "");
  notifier.turn(106s, ServiceState::ready, "busy");
  EXPECT_EQ(manager.hear(), "WATCHDOG=1\nSTATUS=busy\n");
  EXPECT_EQ(notifier.next_deadline(), 111s);
  notifier.turn(111s, ServiceState::stopping, "busy");
  EXPECT_EQ(manager.hear(), "STOPPING=1\nWATCHDOG=1\n") << "a drain is watched, too";
}

TEST_F(ServiceNotify, WhatTheManagerDidNotGetIsSaidAgain) {
  ServiceNotifier notifier({address_, 10s});
  notifier.turn(100s, ServiceState::ready, "working");  // nobody listens
  EXPECT_EQ(notifier.next_deadline(), 101s);
  Manager manager(address_);
  notifier.turn(100500ms, ServiceState::ready, "working");
  EXPECT_EQ(manager.hear(), "") << "not in a storm";
  notifier.turn(101s, ServiceState::ready, "working");
  EXPECT_EQ(manager.hear(), "READY=1\nWATCHDOG=1\nSTATUS=working\n");
}

// systemd does not read while it reloads its configuration: nobody waits for it.
TEST_F(ServiceNotify, AManagerThatDoesNotReadBlocksNobody) {
  Manager manager(address_);
  ServiceNotifier notifier({address_, 0s});
  int turns = 0;
  while (notifier.next_deadline() != Time(turns * 2s) + 1s) {
    ++turns;
    ASSERT_LT(turns, 100'000) << "its socket is never full";
    notifier.turn(Time(turns * 2s), ServiceState::ready, std::to_string(turns));
  }
  while (!manager.hear().empty()) {
  }
  notifier.turn(Time(turns * 2s) + 1s, ServiceState::ready, "again");
  EXPECT_EQ(manager.hear(), "STATUS=again\n");
}

TEST_F(ServiceNotify, WithoutAManagerNothingIsDue) {
  ServiceNotifier notifier;
  notifier.turn(1s, ServiceState::ready, "nobody cares");
  EXPECT_EQ(notifier.next_deadline(), kNever);
}

}  // namespace
}  // namespace muster
