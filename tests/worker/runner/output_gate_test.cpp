// How much of what tasks say gets through. Time moves by hand.
#include "worker/runner/output_gate.hpp"

#include <gtest/gtest.h>

#include <string>

namespace muster {
namespace {

constexpr SessionId kSession{1, 2};

class Gate {
 public:
  void say(const std::string& text, std::uint32_t job = 1, std::uint64_t sequence = 0) {
    gate.add(kSession, JobId{job}, {TaskSequence{sequence}, OutputKind::output, 0, "", text}, now);
  }
  void say_many(std::int64_t count) {
    for (std::int64_t i = 0; i < count; ++i) say("line");
  }
  // Lines and dropped ones of all that waits.
  std::pair<std::uint64_t, std::uint64_t> take() {
    std::uint64_t lines = 0;
    std::uint64_t dropped = 0;
    for (const message::WorkerOutput& output : gate.take()) {
      EXPECT_LE(output.lines.size(), limits::kMaxOutputLines);
      lines += output.lines.size();
      dropped += output.dropped;
    }
    return {lines, dropped};
  }

  OutputGate gate;
  Time now = std::chrono::seconds(100);
};

using Counts = std::pair<std::uint64_t, std::uint64_t>;

TEST(OutputGate, LetsABurstThroughAndThenSoManyASecond) {
  Gate env;
  env.say_many(OutputGate::kBurstLines + 100);
  EXPECT_EQ(env.take(), (Counts{OutputGate::kBurstLines, 100}));
  env.now += std::chrono::milliseconds(500);
  env.say_many(OutputGate::kLinesPerSecond);
  EXPECT_EQ(env.take(), (Counts{OutputGate::kLinesPerSecond / 2, OutputGate::kLinesPerSecond / 2}));
  env.now += std::chrono::hours(1);
  env.say_many(OutputGate::kBurstLines + 1);
  EXPECT_EQ(env.take(), (Counts{OutputGate::kBurstLines, 1}));
}

TEST(OutputGate, KeepsTheOrderOfLinesOfSeveralJobs) {
  Gate env;
  env.say("a", 1);
  env.say("b", 2);
  env.say("c", 1);
  const auto taken = env.gate.take();
  ASSERT_EQ(taken.size(), 3U);
  EXPECT_EQ(taken[1].job, JobId{2});
  EXPECT_EQ(taken[2].lines[0].text, "c");
  EXPECT_TRUE(env.gate.empty());
}

TEST(OutputGate, RemembersWhenTheOldestLineCame) {
  Gate env;
  EXPECT_EQ(env.gate.since(), kNever);
  const Time first = env.now;
  env.say("a");
  env.now += std::chrono::seconds(1);
  env.say("b");
  EXPECT_EQ(env.gate.since(), first);
  EXPECT_FALSE(env.gate.full());
  env.say_many(limits::kMaxOutputLines);
  EXPECT_TRUE(env.gate.full());
}

TEST(OutputGate, CutsLongLinesBetweenCharacters) {
  Gate env;
  env.say(std::string(limits::kMaxLineBytes, 'x'));
  env.say(std::string(limits::kMaxLineBytes - 1, 'x') + "\xc3\xa9");
  const auto taken = env.gate.take();
  EXPECT_EQ(taken[0].lines[0].text.size(), limits::kMaxLineBytes);
  EXPECT_EQ(taken[0].lines[1].text, std::string(limits::kMaxLineBytes - 1, 'x'));
}

}  // namespace
}  // namespace muster
