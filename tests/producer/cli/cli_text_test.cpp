// The rest of the command line's pure parts: options, inputs, tags, outcomes, progress, status.
#include <gtest/gtest.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <array>
#include <optional>
#include <string>
#include <vector>

#include "common/protocol/codec.hpp"
#include "producer/cli/run/input_source.hpp"
#include "producer/cli/run/job_outcome.hpp"
#include "producer/cli/run/run_options.hpp"
#include "producer/cli/status_table.hpp"
#include "producer/cli/terminal/output.hpp"
#include "producer/cli/terminal/progress.hpp"

namespace muster {
namespace {

using std::chrono::milliseconds;
using Words = std::vector<std::string>;

RunOptions parse(const Words& words) {
  CLI::App app("test", "muster");
  RunParser parser(*app.add_subcommand("run", ""));
  const RunWords split = split_run_words(words);
  Words backwards(split.options.rbegin(), split.options.rend());
  backwards.emplace_back("run");
  app.parse(std::move(backwards));
  return parser.options(split);
}

TEST(RunOptions, TheCommandStartsAtTheFirstWordThatIsNoOption) {
  const auto options = parse({"-j2", "--tag", "grep", "-c", "{}", "--tag", ":::", "a", "-j"});
  EXPECT_EQ(options.jobs, 2U);
  EXPECT_TRUE(options.tag);
  EXPECT_EQ(options.command, (Words{"grep", "-c", "{}", "--tag"}));
  EXPECT_EQ(options.inputs, (Words{"a", "-j"}));
}

TEST(RunOptions, ADoubleDashMayDivideThem) {
  EXPECT_EQ(parse({"--env", "A=1", "--", "-odd", "{}"}).command, (Words{"-odd", "{}"}));
  EXPECT_EQ(parse({"git", "log", "--", "{}"}).command, (Words{"git", "log", "--", "{}"}));
  EXPECT_FALSE(parse({"--", "echo"}).inputs.has_value());
}

TEST(RunOptions, ReadsTimesHaltAndEnvironment) {
  const auto options = parse({"--timeout", "1.5", "--retries", "3", "--halt", "now,fail=10%",
                              "--env", "A=b=c", "--env", "B=", "--workdir", "/tmp/../tmp", "echo"});
  EXPECT_EQ(options.timeout, milliseconds(1500));
  EXPECT_EQ(options.tries, 3U);
  EXPECT_TRUE(options.halt.percent);
  ASSERT_EQ(options.environment.size(), 2U);
  EXPECT_EQ(options.environment[0].second, "b=c");
  EXPECT_EQ(options.environment[1].second, "");
  EXPECT_EQ(options.directory, "/tmp");
}

TEST(RunOptions, RefusesWhatMakesNoSense) {
  for (const Words& words :
       {Words{"--jobs", "0", "x"}, Words{"--jobs", "-3", "x"}, Words{"--timeout", "soon", "x"},
        Words{"--halt", "never,ever", "x"}, Words{"--resume", "x"}, Words{"--env", "=v", "x"},
        Words{"--nonsense", "x"}, Words{"x", ":::", "a", ":::", "b"},
        Words{"-a", "/nonexistent", "x"}}) {
    EXPECT_THROW(parse(words), CLI::ParseError) << words[0];
  }
}

TEST(ParseDuration, KnowsItsUnits) {
  EXPECT_EQ(parse_duration("90"), milliseconds(90'000));
  EXPECT_EQ(parse_duration("250ms"), milliseconds(250));
  EXPECT_EQ(parse_duration("5m"), milliseconds(300'000));
  EXPECT_EQ(parse_duration("2h"), milliseconds(7'200'000));
  EXPECT_EQ(parse_duration("1d"), milliseconds(86'400'000));
  for (const char* text : {"", "x", "5 m", "-1", "1w", "nan", "inf", "1e30"}) {
    EXPECT_FALSE(parse_duration(text).has_value()) << text;
  }
}

// A pipe whose reading end an InputSource reads.
class InputTest : public ::testing::Test {
 protected:
  InputTest() { EXPECT_EQ(::pipe(pipe_.data()), 0); }
  ~InputTest() override {
    ::close(pipe_[0]);
    close_writer();
  }
  void type(const std::string& text) {
    ASSERT_EQ(::write(pipe_[1], text.data(), text.size()), static_cast<ssize_t>(text.size()));
  }
  void close_writer() {
    if (pipe_[1] >= 0) ::close(pipe_[1]);
    pipe_[1] = -1;
  }
  static std::string next(InputSource& source) {
    std::string input;
    switch (source.next(input)) {
      case InputSource::State::ready:
        return input;
      case InputSource::State::waiting:
        return "(waiting)";
      case InputSource::State::ended:
        return "(ended)";
    }
    return {};
  }
  std::array<int, 2> pipe_{-1, -1};
};

TEST_F(InputTest, ALoneLineIsThereAtOnce) {
  InputSource source(pipe_[0], '\n');
  EXPECT_EQ(next(source), "(waiting)");
  type("one\ntw");
  EXPECT_EQ(next(source), "one");
  EXPECT_EQ(next(source), "(waiting)");
  type("o\n\nlast");
  EXPECT_EQ(next(source), "two");
  EXPECT_EQ(next(source), "");
  EXPECT_EQ(next(source), "(waiting)");
  EXPECT_FALSE(source.total().has_value());
  close_writer();
  EXPECT_EQ(next(source), "last");
  EXPECT_EQ(next(source), "(ended)");
}

TEST_F(InputTest, NulSeparatesWhenAsked) {
  InputSource source(pipe_[0], '\0');
  type(std::string("a\nb\0c\0", 6));
  close_writer();
  EXPECT_EQ(next(source), "a\nb");
  EXPECT_EQ(next(source), "c");
  EXPECT_EQ(next(source), "(ended)");
}

TEST_F(InputTest, BlankInputsCanBeLeftOut) {
  InputSource source(Words{"a", "", " \t", "b"});
  source.skip_blank();
  EXPECT_EQ(next(source), "a");
  EXPECT_EQ(next(source), "b");
  EXPECT_EQ(next(source), "(ended)");
}

TEST_F(InputTest, ReadingAllTellsTheTotal) {
  InputSource source(pipe_[0], '\n');
  type("1\n2\n3\n");
  close_writer();
  source.read_all(pipe_[0]);
  EXPECT_EQ(source.total(), 3U);
  EXPECT_EQ(next(source), "1");
}

TEST(TagLines, MarksEveryLine) {
  EXPECT_EQ(tag_lines("a\nb\n", "t"), "t\ta\nt\tb\n");
  EXPECT_EQ(tag_lines("a\n\nb", "q r"), "q r\ta\nq r\t\nq r\tb");
  EXPECT_EQ(tag_lines("", "t"), "");
}

JobOutcome outcome_of(ErrorCode code, const std::string& kind, const Bytes& extra = {}) {
  StreamItem item;
  item.error.emplace(code, kind, "what happened", "", extra);
  return read_outcome(item, 1000, milliseconds(2500));
}

TEST(ReadOutcome, AResultIsASuccess) {
  CommandResult result;
  result.output = Bytes::copy("out");
  result.started_unix_us = 1'500'000;
  result.runtime_us = 250'000;
  result.node = "n1";
  const StreamItem item{0, encode_command_result(result), std::nullopt};
  const auto outcome = read_outcome(item, 0, milliseconds(0));
  EXPECT_TRUE(outcome.succeeded());
  EXPECT_EQ(outcome.output.text(), "out");
  EXPECT_DOUBLE_EQ(outcome.start_seconds, 1.5);
  EXPECT_DOUBLE_EQ(outcome.runtime_seconds, 0.25);
}

TEST(ReadOutcome, AnExitKeepsItsOutput) {
  CommandResult result;
  result.exit_status = 3;
  result.error_output = Bytes::copy("oops");
  const auto outcome = outcome_of(ErrorCode::task_failed, "exit", encode_command_result(result));
  EXPECT_EQ(outcome.exit_status, 3);
  EXPECT_EQ(outcome.shell_status(), 3);
  EXPECT_EQ(outcome.error_output.text(), "oops");
  EXPECT_TRUE(outcome.complaint.empty());
}

TEST(ReadOutcome, ASignalIsLoggedAsParallelDoes) {
  CommandResult result;
  result.exit_status = -1;
  result.signal = 9;
  const auto outcome = outcome_of(ErrorCode::task_failed, "exit", encode_command_result(result));
  EXPECT_EQ(outcome.exit_status, 0);
  EXPECT_EQ(outcome.signal, 9);
  EXPECT_EQ(outcome.shell_status(), 137);
  EXPECT_FALSE(outcome.succeeded());
}

TEST(ReadOutcome, TheOthersSayWhatHappened) {
  const auto missing = outcome_of(ErrorCode::task_failed, "start_failed");
  EXPECT_EQ(missing.exit_status, 127);
  EXPECT_EQ(missing.complaint, "what happened");
  const auto late = outcome_of(ErrorCode::task_timed_out, "timed_out");
  EXPECT_EQ(late.exit_status, -1);
  EXPECT_EQ(late.signal, 15);
  EXPECT_DOUBLE_EQ(late.start_seconds, 997.5);
  EXPECT_TRUE(outcome_of(ErrorCode::task_cancelled, "cancelled").cancelled);
  EXPECT_EQ(outcome_of(ErrorCode::task_lost, "lost").shell_status(), 255);
  EXPECT_EQ(outcome_of(ErrorCode::task_failed, "exit", Bytes::copy("junk")).exit_status, -1);
}

TEST(ProgressLine, ShowsABarWhenTheTotalIsKnown) {
  const ProgressState state{5, 1, 2, 10, milliseconds(61'000)};
  EXPECT_EQ(progress_line(state, 60),
            "[##########...........]  50% 5/10, 1 failed, 1:01, 1:01 left");
  EXPECT_LE(progress_line(state, 20).size(), 20U);
}

TEST(ProgressLine, CountsWhenItIsNot) {
  const ProgressState state{5, 0, 2, std::nullopt, milliseconds(3'661'000)};
  EXPECT_EQ(progress_line(state, 80), "5 done, 2 submitted, 1:01:01");
}

TEST(StatusTable, AlignsItsColumns) {
  const std::string table = status_table(R"({"software_version":"0.1.0","uptime_ms":61000,
    "total_slots":6,"sessions":1,
    "workers":[{"node":"alpha","process_id":7,"executor":"thread","slots":4,"leases":12,
                "stuck_slots":1,"tasks_done":5,"round_trip_us":80,"draining":true},
               {"node":"b\u001b[2J","process_id":12345,"executor":"process","slots":2,
                "python":"3.11"}],
    "jobs":[{"label":"score:42","job":1,"function":"f","queued":3,"mean_us":1234567,
             "waiting":"all slots are busy"}]})");
  EXPECT_NE(table.find("up 61.0 s, 6 slots on 2 workers; sessions: 1"), std::string::npos) << table;
  EXPECT_NE(table.find("  alpha         7  thread               4"), std::string::npos) << table;
  EXPECT_NE(table.find("  process, py3.11      2"), std::string::npos) << table;
  EXPECT_NE(table.find("draining, slots stuck: 1"), std::string::npos) << table;
  EXPECT_NE(table.find("1.23 s"), std::string::npos) << table;
  EXPECT_NE(table.find("score:42 job 1 waits: all slots are busy"), std::string::npos) << table;
  EXPECT_EQ(table.find('\x1b'), std::string::npos) << "a node's name moves the cursor";
}

TEST(StatusTable, SaysWhatToDoWithoutWorkers) {
  EXPECT_NE(status_table("{}").find("muster-worker --connect"), std::string::npos);
  EXPECT_THROW(status_table("no json"), std::runtime_error);
  EXPECT_THROW(status_table(R"({"workers":[{"node":5}]})"), std::runtime_error);
}

TEST(DurationText, KeepsThreeDigits) {
  EXPECT_EQ(duration_text(850), "850 us");
  EXPECT_EQ(duration_text(12'345), "12.3 ms");
  EXPECT_EQ(duration_text(4'500'000), "4.50 s");
  EXPECT_EQ(duration_text(7'500'000'000), "2 h 05 min");
}

}  // namespace
}  // namespace muster
