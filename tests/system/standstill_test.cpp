// Processes that stand still (stopped, swapped out, on a machine that was paused) and go on: nobody
// is lost, and no work is repeated. Real programs with short heartbeats.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "tests/system/daemons.hpp"

namespace muster::testing {
namespace {

using namespace std::chrono_literals;

// A silence of a second is one.
const std::vector<std::string> kShort = {"--heartbeat-interval", "0.2", "--heartbeat-misses", "5"};
constexpr auto kLongerThanASilence = 2500ms;

int count_of(const std::string& words, const std::string& text) {
  int count = 0;
  for (auto at = text.find(words); at != std::string::npos; at = text.find(words, at + 1)) ++count;
  return count;
}

class Standstill : public Daemons {
 protected:
  void start(Words broker_options = {}) {
    broker_options.insert(broker_options.end(), kShort.begin(), kShort.end());
    broker_ = start_broker(broker_options);
    worker_ = start_worker({"--slots", "2"});
  }
  std::uint64_t counter(const std::string& name) {
    const auto status = nlohmann::json::parse(status_json(), nullptr, false);
    if (status.is_discarded()) return 0;
    return status["counters"].value(name, std::uint64_t{0});
  }
  bool counted(const std::string& name, std::uint64_t count = 1) {
    return wait_until([&] { return counter(name) >= count; });
  }
  // Nothing but the passing of time makes a standstill long.
  static void let_pass(std::chrono::milliseconds time) {
    const auto end = std::chrono::steady_clock::now() + time;
    wait_until([&] { return std::chrono::steady_clock::now() >= end; });
  }
  std::unique_ptr<Child> start_two() {
    auto run = start_run(kStartAndWait, {"a", "b"});
    EXPECT_TRUE(wait_for_lines("starts", 2));
    return run;
  }
  // What start_two() started ends well, and was never started again.
  void finish(Child& run) {
    touch("go");
    EXPECT_EQ(run.wait(), 0) << run.error_output();
    EXPECT_EQ(run.output(), "a\nb\n");
    EXPECT_EQ(lines_of("starts").size(), 2U);
    EXPECT_EQ(counter("workers_lost"), 0U);
    EXPECT_EQ(counter("sessions_expired"), 0U);
  }

  std::unique_ptr<Child> broker_;
  std::unique_ptr<Child> worker_;
};

TEST_F(Standstill, OfTheBrokerIsSaidAndLosesNobody) {
  start({"--session-grace", "0.2"});
  const auto run = start_two();
  for (int i = 0; i < 2; ++i) {
    broker_->signal(SIGSTOP);
    ASSERT_TRUE(wait_until([&] {
      return count_of("waiting for the broker", run->error_output()) == i + 1;
    })) << run->error_output();
    broker_->signal(SIGCONT);
    ASSERT_TRUE(wait_until([&] { return count_of("answers again", run->error_output()) == i + 1; }))
        << run->error_output();
  }
  finish(*run);
}

TEST_F(Standstill, OfAProducerKeepsWhatItStarted) {
  start({"--session-grace", "0.2"});
  const auto run = start_two();
  run->signal(SIGSTOP);
  ASSERT_TRUE(counted("producers_silent"));
  let_pass(kLongerThanASilence);
  run->signal(SIGCONT);
  finish(*run);
}

TEST_F(Standstill, OfAProducerKeepsWhatEndedMeanwhile) {
  start({"--session-grace", "0.2"});
  const auto run = start_two();
  run->signal(SIGSTOP);
  ASSERT_TRUE(counted("producers_silent"));
  touch("go");
  ASSERT_TRUE(wait_until([&] {
    const auto status = nlohmann::json::parse(status_json(), nullptr, false);
    return !status.is_discarded() && status["workers"].at(0).value("tasks_done", 0) == 2;
  }));
  let_pass(kLongerThanASilence);
  run->signal(SIGCONT);
  finish(*run);
}

TEST_F(Standstill, AProducerThatDiedWhileItStoodStillIsForgotten) {
  start({"--session-grace", "0.2"});
  const auto run = start_two();
  run->signal(SIGSTOP);
  ASSERT_TRUE(counted("producers_silent"));
  run->signal(SIGKILL);
  EXPECT_TRUE(counted("sessions_expired"));
}

// A paused machine: the broker goes on first, and has heard nobody for long.
TEST_F(Standstill, OfAllAtOnceIsNobodysFault) {
  start({"--session-grace", "0.2"});
  const auto run = start_two();
  const std::vector<Child*> all = {broker_.get(), worker_.get(), run.get()};
  for (const Child* one : all) one->signal(SIGSTOP);
  let_pass(kLongerThanASilence);
  for (const Child* one : all) one->signal(SIGCONT);
  finish(*run);
  EXPECT_EQ(counter("leases_lost"), 0U);
  EXPECT_EQ(run->error_output().find("waiting for the broker"), std::string::npos);
}

TEST_F(Standstill, LongerThanTheUserAllowsEndsTheRun) {
  start();
  const auto run = start_run(kStartAndWait, {"a"}, {"--broker-timeout", "1.5s"});
  ASSERT_TRUE(wait_for_lines("starts", 1));
  broker_->signal(SIGSTOP);
  EXPECT_EQ(run->wait(), 255);
  EXPECT_TRUE(run->wait_for_output("has not answered for")) << run->error_output();
}

}  // namespace
}  // namespace muster::testing
