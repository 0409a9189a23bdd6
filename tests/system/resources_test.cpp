// What tasks ask for and what workers give, with a real broker, workers and commands.
#include <algorithm>
#include <csignal>

#include "tests/system/daemons.hpp"

namespace muster::testing {
namespace {

class Resources : public Daemons {
 protected:
  bool status_says(const std::string& text) {
    return wait_until([&] { return status_json().find(text) != std::string::npos; });
  }
};

// Each job notes when it starts and ends; at most `most` may ever be between the two.
std::size_t most_at_once(const std::vector<std::string>& lines) {
  std::size_t running = 0;
  std::size_t most = 0;
  for (const std::string& line : lines) {
    running += line.starts_with("start") ? 1 : 0;
    running -= line.starts_with("end") ? 1 : 0;
    most = std::max(most, running);
  }
  return most;
}

constexpr const char* kNoteAndWait =
    "echo start {} >> notes; for i in 1 2 3 4 5; do sleep 0.01; done; echo end {} >> notes";

TEST_F(Resources, WideJobsNeverTakeMoreSlotsThanThereAre) {
  const auto broker = start_broker();
  const auto worker = start_worker({"--slots", "5", "--memory", "5GiB"});
  const Words inputs = {"1", "2", "3", "4", "5", "6", "7", "8", "9", "10"};
  const auto wide = start_run(kNoteAndWait, inputs, {"--memory", "2GiB"});
  EXPECT_EQ(wide->wait(), 0) << wide->error_output();
  const std::vector<std::string> notes = lines_of("notes");
  EXPECT_EQ(notes.size(), 20U);
  EXPECT_EQ(most_at_once(notes), 2U) << "two slots each, of five";
}

TEST_F(Resources, AJobThatFitsNowhereEndsWithTheReason) {
  const auto broker = start_broker();
  const auto worker = start_worker({"--node", "node7", "--memory", "32GiB"});
  const auto run = start_run("echo {}", {"1"}, {"--memory", "64GiB"});
  EXPECT_NE(run->wait(), 0);
  EXPECT_NE(
      run->error_output().find("no worker has 64 GB for one task; the largest, node7, has 32 GB"),
      std::string::npos)
      << run->error_output();
}

TEST_F(Resources, AGreedyCommandDiesAloneWithTheReason) {
  const auto broker = start_broker();
  const auto worker = start_worker({"--slots", "2", "--memory", "4GiB"});
  const auto run = start_run("head -c {}M /dev/zero | tail -c {}M | wc -c", {"1", "500", "2"},
                             {"--memory", "200MiB"});
  EXPECT_EQ(run->wait(), 1) << "one job failed";
  EXPECT_EQ(run->output(), "1048576\n2097152\n");
  EXPECT_NE(run->error_output().find("its limit is 200 MB"), std::string::npos)
      << run->error_output();
}

TEST_F(Resources, GpusGoToTheJobsThatAskForThem) {
  const auto broker = start_broker();
  const auto worker = start_worker({"--slots", "4", "--gpus", "3,7"});
  const std::string say =
      "echo start {} >> notes; sleep 0.05; echo end {} >> notes; echo $CUDA_VISIBLE_DEVICES";
  const auto run = start_run(say, {"1", "2", "3", "4", "5", "6"}, {"--gpus", "1"});
  EXPECT_EQ(run->wait(), 0) << run->error_output();
  EXPECT_EQ(most_at_once(lines_of("notes")), 2U);
  std::string said = run->output();
  EXPECT_EQ(said.size(), 12U) << said;
  EXPECT_EQ(std::count(said.begin(), said.end(), '3') + std::count(said.begin(), said.end(), '7'),
            6)
      << said;
  const auto both = start_run("echo $CUDA_VISIBLE_DEVICES; : {}", {"1"}, {"--gpus", "2"});
  EXPECT_EQ(both->wait(), 0) << both->error_output();
  EXPECT_EQ(both->output(), "3,7\n");
  const auto none = start_run("echo \"<$CUDA_VISIBLE_DEVICES>\"; : {}", {"1"});
  EXPECT_EQ(none->wait(), 0) << none->error_output();
  EXPECT_EQ(none->output(), "<>\n");
}

TEST_F(Resources, LabelsDecideWhereAJobRuns) {
  const auto broker = start_broker();
  const auto plain = start_worker();
  const auto fast = start_worker({"--label", "fast", "--label", "ours"});
  ASSERT_TRUE(status_says("\"ours\"")) << status_json();  // what fits nobody does not wait long
  const auto run =
      start_run("echo $PPID; : {}", {"1", "2", "3"}, {"--label", "ours", "--label", "fast"});
  EXPECT_EQ(run->wait(), 0) << run->error_output();
  const std::string id = std::to_string(fast->pid()) + "\n";
  EXPECT_EQ(run->output(), id + id + id);
}

TEST_F(Resources, AWorkerTakesAsLittleOfTheMachineAsItIsTold) {
  const auto broker = start_broker();
  const auto worker =
      start_worker({"--max-cores", "1", "--max-memory", "1GiB", "--nice", "7", "--slots", "1"});
  // The worker raises the score right after the start of the command, not before.
  const auto run = start_run(
      "nproc; nice; until grep -x 500 /proc/$$/oom_score_adj; do sleep 0.01; done; : {}", {"1"});
  EXPECT_EQ(run->wait(), 0) << run->error_output();
  EXPECT_EQ(run->output(), "1\n7\n500\n");
  EXPECT_TRUE(status_says("\"memory_bytes\": 1073741824")) << status_json();
  EXPECT_TRUE(status_says("\"cores\": 1")) << status_json();
}

// Others are a process of this test, which the worker did not start.
TEST_F(Resources, AGuestPausesWhileOthersAreBusyAndRunningJobsGoOn) {
  const auto broker = start_broker();
  const auto guest = start_worker({"--pause-load", "0.5", "--node", "laptop"});
  const auto first = start_run(kStartAndWait, {"1"});
  ASSERT_TRUE(wait_for_lines("starts", 1)) << first->error_output();
  const auto owner = std::make_unique<Child>(Words{"sh", "-c", "while :; do :; done"});
  ASSERT_TRUE(status_says("\"paused\": \"others keep ")) << status_json();
  EXPECT_TRUE(status_says("(limit 0.5)"));
  const auto second = start_run("echo {}", {"2"});
  EXPECT_TRUE(status_says("\"waiting\": \"the workers that could run it pause (laptop: others"))
      << status_json();
  touch("go");
  EXPECT_EQ(first->wait(), 0) << first->error_output();
  const auto helper = start_worker();
  EXPECT_EQ(second->wait(), 0) << second->error_output();
  EXPECT_EQ(second->output(), "2\n");
}

TEST_F(Resources, WhatMakesNoSenseIsSaidInOneLine) {
  const std::vector<std::pair<Words, std::string>> cases = {
      {{"--gpus", "0,0"}, "without repeats"},
      {{"--label", ""}, "must have 1 to 512 bytes"},
      {{"--gpus", "9999"}, "no node has more"},
  };
  for (const auto& [options, advice] : cases) {
    Words argv = {MUSTER_BIN_DIR "/muster-worker", "--connect", endpoint_};
    argv.insert(argv.end(), options.begin(), options.end());
    const Finished ended = run_to_end(argv);
    EXPECT_EQ(ended.status, 2) << options.at(1);
    EXPECT_NE(ended.error_output.find(advice), std::string::npos) << ended.error_output;
  }
}

}  // namespace
}  // namespace muster::testing
