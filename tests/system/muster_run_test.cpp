// `muster run` from end to end: the built program, a pool of its own, real children.
#include <gtest/gtest.h>
#include <sys/mount.h>

#include <algorithm>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <regex>
#include <sstream>
#include <string>
#include <vector>

#include "tests/system/cli_process.hpp"

namespace muster::test {
namespace {

using Words = std::vector<std::string>;

class MusterRunTest : public ::testing::Test {
 protected:
  MusterRunTest() {
    std::string pattern = ::testing::TempDir() + "/muster-run-XXXXXX";
    if (::mkdtemp(pattern.data()) != nullptr) directory_ = pattern;
  }
  ~MusterRunTest() override { std::filesystem::remove_all(directory_); }

  Process::Setup setup(const Words& words) const {
    Process::Setup setup;
    setup.argv = {std::string(MUSTER_BIN_DIR) + "/muster", "run", "-j2"};
    setup.argv.insert(setup.argv.end(), words.begin(), words.end());
    setup.environment = {{"MUSTER_BROKER", ""}};
    setup.directory = directory_;
    return setup;
  }
  Ended run(const Words& words, const std::string& input = "") const {
    return run_process(setup(words), input);
  }
  std::string path(const std::string& name) const { return directory_ + "/" + name; }
  std::string text(const std::string& name) const {
    std::ostringstream all;
    all << std::ifstream(path(name)).rdbuf();
    return all.str();
  }
  // The process whose id a job wrote into a file is gone.
  bool is_gone(const std::string& name) const {
    const pid_t id = std::stoi(text(name));
    return wait_until([id] {  // a zombie is gone: whether somebody reaps it is not our matter
      std::ifstream stat("/proc/" + std::to_string(id) + "/stat");
      std::string word;
      return !(stat >> word >> word >> word) || word == "Z";
    });
  }
  bool wait_for_file(const std::string& name) const {
    return wait_until([&] { return text(name).find('\n') != std::string::npos; });
  }
  // What stays the same from run to run.
  static std::string without_times(const std::string& log) {
    return std::regex_replace(log, std::regex("\t[0-9]+\\.[0-9]{3}\t *[0-9]+\\.[0-9]{3}\t"),
                              "\tSTART\tTIME\t");
  }

  std::string directory_;
};

TEST_F(MusterRunTest, OutputComesInTheOrderOfTheInputs) {
  const auto ended = run({"sleep {}; echo {}", ":::", "0.3", "0.2", "0.1", "0"});
  EXPECT_EQ(ended.output, "0.3\n0.2\n0.1\n0\n") << ended.error_output;
  EXPECT_EQ(ended.status, 0);
}

TEST_F(MusterRunTest, UnorderedOutputComesAsJobsFinish) {
  // The first job waits for the last; those between take turns on the other slot. Outcomes of the
  // same few milliseconds may come in any order, so there are many.
  std::vector<std::string> arguments = {
      "--unordered", "--jobs", "2",
      "if [ {} = 0 ]; then while [ ! -e go ]; do sleep 0.01; done; fi; "
      "[ {} = 30 ] && touch go; echo {}",
      ":::"};
  for (int job = 0; job <= 30; ++job) arguments.push_back(std::to_string(job));
  const auto ended = run(arguments);
  EXPECT_EQ(std::count(ended.output.begin(), ended.output.end(), '\n'), 31) << ended.error_output;
  EXPECT_NE(ended.output.rfind("0\n", 0), 0U) << "the job that ended last came out first";
}

TEST_F(MusterRunTest, EachJobsOutputStaysTogetherOnItsOwnStream) {
  const auto ended =
      run({"--tag", "echo a{}; echo e{} >&2; sleep 0.05; echo b{}", ":::", "1", "2"});
  EXPECT_EQ(ended.output, "1\ta1\n1\tb1\n2\ta2\n2\tb2\n");
  EXPECT_NE(ended.error_output.find("1\te1\n"), std::string::npos) << ended.error_output;
  EXPECT_NE(ended.error_output.find("2\te2\n"), std::string::npos) << ended.error_output;
}

TEST_F(MusterRunTest, ReplacesPlaceholdersAndReadsLines) {
  EXPECT_EQ(run({"echo", "{#}:{}:{/.}"}, "a/b.c\nx y").output, "1:a/b.c:b\n2:x y:x y\n");
  EXPECT_EQ(run({"-0", "echo"}, std::string("a\nb\0c\0", 6)).output, "a\nb\nc\n");
  EXPECT_EQ(run({"--shell", "echo", "$((1+1))", ":::", "$HOME"}).output, "2 $HOME\n");
  EXPECT_EQ(run({}, "echo one | tr o 0\n").output, "0ne\n");
}

TEST_F(MusterRunTest, TheStatusCountsFailedJobs) {
  EXPECT_EQ(run({"true", ":::", "a"}).status, 0);
  EXPECT_EQ(run({"exit {}", ":::", "0", "1", "2", "3"}).status, 3);
  std::string many;
  for (int job = 0; job < 105; ++job) many += "x\n";
  EXPECT_EQ(run({"false"}, many).status, 101);
}

TEST_F(MusterRunTest, UsageErrorsAre255) {
  EXPECT_EQ(run({"--timeout", "soon", "true"}).status, 255);
  EXPECT_EQ(run({"--nonsense", "true"}).status, 255);
  EXPECT_EQ(run({"--resume", "true"}).status, 255);
}

TEST_F(MusterRunTest, RetriesUntilItSucceeds) {
  const auto ended =
      run({"--retries", "3", "echo x >> tries; [ $(wc -l < tries) -ge 3 ] #", ":::", "a"});
  EXPECT_EQ(ended.status, 0) << ended.error_output;
  EXPECT_EQ(text("tries"), "x\nx\nx\n");
}

TEST_F(MusterRunTest, ATimeOutKillsTheWholeProcessGroup) {
  const auto ended = run(
      {"--timeout", "1s", "--joblog", "log", "sleep 1000 & echo $! > child; wait #", ":::", "a"});
  EXPECT_EQ(ended.status, 1) << ended.error_output;
  EXPECT_TRUE(is_gone("child"));
  EXPECT_NE(text("log").find("\t-1\t15\t"), std::string::npos) << text("log");
}

TEST_F(MusterRunTest, HaltNowKillsRunningJobs) {
  const auto ended = run({"--halt", "now,fail=1",
                          "if [ {} = wait ]; then echo $$ > child; exec sleep 1000; fi; "
                          "while [ ! -s child ]; do sleep 0.01; done; exit 7",
                          ":::", "wait", "fail", "never"});
  EXPECT_EQ(ended.status, 7) << ended.error_output;
  EXPECT_TRUE(is_gone("child"));
}

TEST_F(MusterRunTest, HaltSoonLetsRunningJobsFinish) {
  const auto ended = run({"--halt", "soon,fail=1",
                          "if [ {} = slow ]; then touch on; while [ ! -e fails ]; do sleep 0.01; "
                          "done; sleep 0.3; echo finished; fi; if [ {} = fail ]; then "
                          "while [ ! -e on ]; do sleep 0.01; done; touch fails; exit 7; fi; "
                          "[ {} != never ] || touch ran",
                          ":::", "slow", "fail", "never"});
  EXPECT_EQ(ended.status, 7) << ended.error_output;
  EXPECT_EQ(ended.output, "finished\n");
  EXPECT_FALSE(std::filesystem::exists(path("ran")));
}

TEST_F(MusterRunTest, TheJoblogIsTheOneThatGnuParallelWrites) {
  const Words arguments{"-j1", "--joblog", "ours", "echo {}; exit {}", ":::", "0", "1", "2"};
  EXPECT_EQ(run(arguments).status, 2);
  if (std::system("command -v parallel > /dev/null") != 0) GTEST_SKIP() << "no GNU parallel here";
  Process::Setup parallel;
  parallel.argv = {"parallel", "-j1"};
  parallel.argv.insert(parallel.argv.end(), arguments.begin() + 1, arguments.end());
  parallel.argv[3] = "theirs";
  parallel.directory = directory_;
  parallel.environment = {{"PARALLEL_HOME", directory_}};
  const std::ofstream consent(path("will-cite"));
  EXPECT_EQ(run_process(parallel).status, 2);
  EXPECT_EQ(without_times(text("ours")), without_times(text("theirs")));
}

TEST_F(MusterRunTest, ResumeRunsWhatTheLogLacks) {
  EXPECT_EQ(run({"--joblog", "log", "exit {}", ":::", "0", "1"}).status, 1);
  const auto resumed = run({"--resume", "--joblog", "log", "echo ran {}", ":::", "0", "1", "2"});
  EXPECT_EQ(resumed.output, "ran 2\n") << resumed.error_output;
  const auto again =
      run({"--resume-failed", "--joblog", "log", "echo again {}", ":::", "0", "1", "2", "3"});
  EXPECT_EQ(again.output, "again 1\nagain 3\n") << again.error_output;
  EXPECT_EQ(run({"--resume-failed", "--joblog", "log", "echo {}", ":::", "0", "1", "2"}).output,
            "");
}

TEST_F(MusterRunTest, ADryRunPrintsTheCommandsInOrder) {
  const auto ended = run({"--dry-run", "touch", "{}", ":::", "a b", "c"});
  EXPECT_EQ(ended.output, "touch 'a b'\ntouch c\n");
  EXPECT_EQ(ended.status, 0);
  EXPECT_FALSE(std::filesystem::exists(path("c")));
}

TEST_F(MusterRunTest, AFullDiskUnderTheJoblogIsNamed) {
  const auto ended = run({"--joblog", "/dev/full", "echo", ":::", "a"});
  EXPECT_EQ(ended.status, 255);
  EXPECT_NE(ended.error_output.find("cannot write the job log /dev/full"), std::string::npos);
}

TEST_F(MusterRunTest, ADiskThatFillsUnderTheJoblogStopsTheRunAndKeepsWhatFinished) {
  std::filesystem::create_directory(path("disk"));
  if (::mount("none", path("disk").c_str(), "tmpfs", 0, "size=4096") != 0) {
    GTEST_SKIP() << "only root may mount a small disk";
  }
  std::string many;
  for (int job = 0; job < 500; ++job) many += std::to_string(job) + "\n";
  const auto ended = run({"--joblog", path("disk/log"), "echo"}, many);
  const std::string log = text("disk/log");
  ::umount2(path("disk").c_str(), MNT_DETACH);
  EXPECT_EQ(ended.status, 255);
  EXPECT_NE(ended.error_output.find("No space left"), std::string::npos) << ended.error_output;
  EXPECT_EQ(ended.output.rfind("0\n1\n2\n", 0), 0U) << ended.output;
  EXPECT_EQ(log.rfind("Seq\tHost\t", 0), 0U) << log;
}

TEST_F(MusterRunTest, FullStandardOutputIsAnError) {
  auto full = setup({"echo", ":::", "a"});
  full.output_file = "/dev/full";
  const auto ended = run_process(full);
  EXPECT_EQ(ended.status, 255);
  EXPECT_NE(ended.error_output.find("standard output"), std::string::npos) << ended.error_output;
}

TEST_F(MusterRunTest, AMissingCommandCountsAsFailed) {
  const auto ended = run({"--joblog", "log", "no-such-command-here", ":::", "a"});
  EXPECT_EQ(ended.status, 1);
  EXPECT_NE(ended.error_output.find("no-such-command-here"), std::string::npos);
  EXPECT_NE(text("log").find("\t127\t0\t"), std::string::npos) << text("log");
}

TEST_F(MusterRunTest, EnvironmentAndDirectoryReachTheJobs) {
  const auto ended =
      run({"--env", "GREETING=hi there", "--workdir", "/", "echo $GREETING; pwd", ":::", "a"});
  EXPECT_EQ(ended.output, "hi there\n/\n") << ended.error_output;
}

TEST_F(MusterRunTest, ALoneLineRunsWhileStandardInputStaysOpen) {
  Process process(setup({"echo", "got"}));
  process.type("one\n");
  EXPECT_TRUE(process.wait_for_output("got one\n"));
  process.type("two\n");
  EXPECT_TRUE(process.wait_for_output("got two\n"));
  process.close_input();
  EXPECT_EQ(process.finish().status, 0);
}

TEST_F(MusterRunTest, AnEndlessInputEndsWhenNobodyReadsTheOutput) {
  const std::string muster = std::string(MUSTER_BIN_DIR) + "/muster";
  Process::Setup shell;
  shell.argv = {"bash", "-c",
                "yes | " + muster + " run -j2 echo | head -n 5; echo ${PIPESTATUS[1]}"};
  shell.environment = {{"MUSTER_BROKER", ""}};
  const auto ended = run_process(shell);
  EXPECT_EQ(ended.output, "y\ny\ny\ny\ny\n141\n") << ended.error_output;
}

// Memory in KiB that `field` of /proc/ID/status names.
long memory_kib(const std::string& id, const std::string& field) {
  std::ifstream status("/proc/" + id + "/status");
  std::string word;
  long value = 0;
  while (status >> word) {
    if (word == field + ":" && status >> value) break;
  }
  return value;
}

TEST_F(MusterRunTest, AnEndlessInputNeedsBoundedMemory) {
  // 4 KiB lines without end; the jobs end one by one as the test asks for their output.
  const std::string muster = std::string(MUSTER_BIN_DIR) + "/muster";
  Process::Setup shell;
  shell.argv = {"bash", "-c",
                "yes $(printf %04000d 0) | { echo $BASHPID > muster; exec " + muster +
                    " run -j2 'echo done {#} #'; }"};
  shell.directory = directory_;
  shell.environment = {{"MUSTER_BROKER", ""}};
  Process process(shell);
  ASSERT_TRUE(process.wait_for_output("done 500\n"));
  std::string id = text("muster");
  id.pop_back();
  const long most = memory_kib(id, "VmHWM");
  EXPECT_GT(most, 0);
  EXPECT_LT(most, 200 * 1024) << "unread, this input has gigabytes";
}

TEST_F(MusterRunTest, CtrlCEndsTheJobsAndKeepsWhatFinished) {
  Process process(
      setup({"if [ {} = done ]; then echo finished; else echo $$ > child; "
             "exec sleep 1000; fi",
             ":::", "done", "wait"}));
  ASSERT_TRUE(wait_for_file("child"));
  process.send_to_group(SIGINT);
  const auto ended = process.finish();
  EXPECT_EQ(ended.status, 130) << ended.error_output;
  EXPECT_EQ(ended.output, "finished\n");
  EXPECT_TRUE(is_gone("child"));
}

TEST_F(MusterRunTest, TerminationEndsTheJobsToo) {
  Process process(setup({"echo $$ > child; exec sleep 1000 #", ":::", "a"}));
  ASSERT_TRUE(wait_for_file("child"));
  process.send(SIGTERM);
  EXPECT_EQ(process.finish().status, 143);
  EXPECT_TRUE(is_gone("child"));
}

TEST_F(MusterRunTest, CtrlCOnATerminalTakesTheProgressLineAway) {
  auto terminal = setup({"--bar", "echo $$ > child; exec sleep 1000 #", ":::", "a"});
  terminal.terminal = true;
  Process process(terminal);
  ASSERT_TRUE(process.wait_for_output("0/1"));
  ASSERT_TRUE(wait_for_file("child"));
  process.type("\x03");
  const auto ended = process.finish();
  EXPECT_EQ(ended.status, 130) << ended.output;
  const auto drawn = ended.output.rfind("0/1");
  EXPECT_NE(ended.output.find("\r\033[K", drawn), std::string::npos) << ended.output;
  EXPECT_TRUE(is_gone("child"));
}

class MusterStatusTest : public MusterRunTest {
 protected:
  Process::Setup program(const Words& argv) const {
    Process::Setup setup;
    setup.argv = argv;
    setup.argv[0] = std::string(MUSTER_BIN_DIR) + "/" + argv[0];
    setup.environment = {{"MUSTER_BROKER", ""}};
    setup.directory = directory_;
    return setup;
  }
};

TEST_F(MusterStatusTest, NeedsABroker) {
  const auto ended = run_process(program({"muster", "status"}));
  EXPECT_EQ(ended.status, 255);
  EXPECT_NE(ended.error_output.find("--broker"), std::string::npos) << ended.error_output;
}

TEST_F(MusterStatusTest, ShowsABrokerAndItsWorkers) {
  const std::string endpoint = "ipc://" + path("broker.ipc");
  Process broker(program({"muster-broker", "--listen", endpoint}));
  Process worker(program({"muster-worker", "--connect", endpoint, "--slots", "3"}));
  Ended json;
  EXPECT_TRUE(wait_until([&] {
    json = run_process(program({"muster", "status", "--json", "--broker", endpoint}));
    return json.output.find("\"total_slots\": 3") != std::string::npos;
  })) << json.output
      << json.error_output;
  const auto table = run_process(program({"muster", "status", "--broker", endpoint}));
  EXPECT_EQ(table.status, 0);
  EXPECT_NE(table.output.find("3 slots on 1 worker;"), std::string::npos) << table.output;
  const auto ran = run({"--broker", endpoint, "echo", ":::", "a", "b"});
  EXPECT_EQ(ran.output, "a\nb\n") << ran.error_output;
}

TEST_F(MusterStatusTest, ABrokerThatIsNotThereIsAnError) {
  const auto ended = run({"--broker", "ipc://" + path("nobody.ipc"), "echo", ":::", "a"});
  EXPECT_EQ(ended.status, 255);
  EXPECT_NE(ended.error_output.find("nobody.ipc"), std::string::npos) << ended.error_output;
}

}  // namespace
}  // namespace muster::test
