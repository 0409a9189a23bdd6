// `muster run --in FILE --out FILE` from end to end: files go to jobs and come back.
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "producer/cli/run/job_files.hpp"
#include "tests/system/cli_process.hpp"

namespace muster::test {
namespace {

namespace fs = std::filesystem;
using Words = std::vector<std::string>;

class RunFilesTest : public ::testing::Test {
 protected:
  RunFilesTest() {
    std::string pattern = ::testing::TempDir() + "/muster-files-XXXXXX";
    if (::mkdtemp(pattern.data()) != nullptr) directory_ = pattern;
  }
  ~RunFilesTest() override { fs::remove_all(directory_); }

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
  void write(const std::string& name, const std::string& text) const {
    fs::create_directories(fs::path(path(name)).parent_path());
    std::ofstream(path(name)) << text;
  }
  std::string text(const std::string& name) const {
    std::ostringstream all;
    all << std::ifstream(path(name)).rdbuf();
    return all.str();
  }
  // All names in the test's folder, hidden ones as well.
  std::vector<std::string> names() const {
    std::vector<std::string> found;
    for (const auto& entry : fs::recursive_directory_iterator(directory_)) {
      found.push_back(fs::relative(entry.path(), directory_));
    }
    std::sort(found.begin(), found.end());
    return found;
  }

  std::string directory_;
};

TEST(NamesInFolders, StayWhereTheyLeadInwards) {
  EXPECT_EQ(name_in_folder("a.txt"), "a.txt");
  EXPECT_EQ(name_in_folder("sub/./a.txt"), "a.txt");
  EXPECT_EQ(name_in_folder("sub/a.txt"), "sub/a.txt");
  EXPECT_EQ(name_in_folder("./sub//x/../a.txt"), "sub/a.txt");
  EXPECT_EQ(name_in_folder("/data/sub/a.txt"), "a.txt");
  EXPECT_EQ(name_in_folder("/data/./sub/a.txt"), "sub/a.txt");
  EXPECT_EQ(name_in_folder("../a.txt"), "a.txt");
  EXPECT_EQ(name_in_folder("sub/../../a.txt"), "a.txt");
  for (const char* none : {"", ".", "..", "/", "sub/", "../..", "a/./"}) {
    EXPECT_EQ(name_in_folder(none), "") << none;
  }
}

TEST_F(RunFilesTest, EachJobGetsItsInputAndLeavesItsOutput) {
  write("in/a.txt", "alpha\n");
  write("in/b.txt", "beta\n");
  const auto ended = run({"--in", "{}", "--out", "out/{/.}.up", "tr a-z A-Z < {} > out/{/.}.up",
                          ":::", "in/a.txt", "in/b.txt"});
  EXPECT_EQ(ended.status, 0) << ended.error_output;
  EXPECT_EQ(text("out/a.up"), "ALPHA\n");
  EXPECT_EQ(text("out/b.up"), "BETA\n");
  EXPECT_EQ(names(), (Words{"in", "in/a.txt", "in/b.txt", "out", "out/a.up", "out/b.up"}));
}

TEST_F(RunFilesTest, AJobSeesNothingElse) {
  write("a.txt", "alpha\n");
  write("secret", "");
  const auto ended = run({"--in", "{}", "ls -A; touch left-behind", ":::", "a.txt"});
  EXPECT_EQ(ended.output, "a.txt\n") << ended.error_output;
  EXPECT_EQ(names(), (Words{"a.txt", "secret"}));
}

TEST_F(RunFilesTest, ManyJobsShareAFileThatIsSentOnce) {
  write("model", std::string(3 << 20, 'm'));
  Words words = {"--in", "model", "wc -c < model; echo {}", ":::"};
  std::string expected;
  for (int job = 0; job < 30; ++job) {
    words.push_back(std::to_string(job));
    expected += "3145728\n" + std::to_string(job) + "\n";
  }
  const auto ended = run(words);
  EXPECT_EQ(ended.output, expected) << ended.error_output;
}

TEST_F(RunFilesTest, InputsCannotBeChangedByJobs) {
  write("a.txt", "alpha\n");
  const auto ended =
      run({"--in", "{}", "--out", "b.txt", "rm {}; echo new > {}; cp {} b.txt", ":::", "a.txt"});
  EXPECT_EQ(ended.status, 0) << ended.error_output;
  EXPECT_EQ(text("a.txt"), "alpha\n");
  EXPECT_EQ(text("b.txt"), "new\n");
}

TEST_F(RunFilesTest, FilesFromElsewhereAreKnownByTheirBaseName) {
  write("far/away/a.txt", "alpha\n");
  const auto ended = run({"--in", path("far/away/{}"), "--out", path("far/./{/.}/b.txt"),
                          "cat {} > {.}/b.txt", ":::", "a.txt"});
  EXPECT_EQ(ended.status, 0) << ended.error_output;
  EXPECT_EQ(text("far/a/b.txt"), "alpha\n");
}

TEST_F(RunFilesTest, AMissingInputIsAnErrorBeforeAnythingRuns) {
  write("a.txt", "alpha\n");
  const auto ended = run({"--in", "{}", "--out", "{}.out", "cp {} {}.out; touch " + path("ran"),
                          ":::", "a.txt", "none.txt"});
  EXPECT_EQ(ended.status, 255);
  EXPECT_NE(ended.error_output.find("none.txt"), std::string::npos) << ended.error_output;
  EXPECT_EQ(names(), Words{"a.txt"});
}

TEST_F(RunFilesTest, AMissingInputThatComesLateFailsItsJobOnly) {
  write("a.txt", "alpha\n");
  write("c.txt", "gamma\n");
  const auto ended = run({"--joblog", "log", "--in", "{}", "cat {}"}, "a.txt\nnone.txt\nc.txt\n");
  EXPECT_EQ(ended.status, 1) << ended.error_output;
  EXPECT_EQ(ended.output, "alpha\ngamma\n");
  EXPECT_NE(ended.error_output.find("none.txt"), std::string::npos) << ended.error_output;
  EXPECT_NE(text("log").find("\tcat none.txt\n"), std::string::npos) << text("log");
}

TEST_F(RunFilesTest, AnOutputThatWasNotMadeFailsTheJob) {
  const auto ended =
      run({"--out", "{}.out", "echo said {}; test {} = a || echo x > {}.out", ":::", "a", "b"});
  EXPECT_EQ(ended.status, 1);
  EXPECT_EQ(ended.output, "said a\nsaid b\n");
  EXPECT_NE(ended.error_output.find("a.out"), std::string::npos) << ended.error_output;
  EXPECT_EQ(names(), Words{"b.out"});
}

TEST_F(RunFilesTest, AFailedJobLeavesOldOutputsAlone) {
  write("a.out", "old\n");
  const auto ended = run({"--out", "{}.out", "echo new > {}.out; exit 3", ":::", "a"});
  EXPECT_EQ(ended.status, 1);
  EXPECT_EQ(text("a.out"), "old\n");
  EXPECT_EQ(names(), Words{"a.out"});
}

TEST_F(RunFilesTest, AnOutputThatCannotBeWrittenFailsTheJobAndSaysSo) {
  write("file", "");  // where a folder would have to be
  const auto ended = run({"--out", path("file/./{}.out"), "echo new > {}.out", ":::", "a"});
  EXPECT_EQ(ended.status, 1);
  EXPECT_NE(ended.error_output.find("cannot write"), std::string::npos) << ended.error_output;
}

TEST_F(RunFilesTest, WhatCannotWorkIsRefused) {
  fs::create_directory(path("folder"));
  write("a/x", "");
  write("b/x", "");
  const auto refuses = [this](const Words& words, const std::string& why) {
    const auto ended = run(words);
    EXPECT_EQ(ended.status, 255) << why;
    EXPECT_NE(ended.error_output.find(why), std::string::npos) << ended.error_output;
  };
  refuses({"--in", "folder", "true", ":::", "1"}, "is a directory");
  refuses({"--out", "folder", "true", ":::", "1"}, "is a directory");
  refuses({"--in", "{}", "--in", path("b/x"), "true", ":::", path("a/x")}, "would be called 'x'");
  refuses({"--out", "same", "true", ":::", "1", "2"}, "several jobs would write same");
  refuses({"--out", "", "true", ":::", "1"}, "is not the name of a file");
  refuses({"--in", "a/x", "--workdir", "/", "true", ":::", "1"}, "--workdir");
}

TEST_F(RunFilesTest, AResumedRunLeavesOutWhatIsThere) {
  write("a", "1");
  write("b", "2");
  const Words words = {"--joblog", "log",   "--resume", "--in",
                       "{}",       "--out", "{}.out",   "cat {} > {}.out; echo ran {}",
                       ":::",      "a",     "b"};
  EXPECT_EQ(run(words).output, "ran a\nran b\n");
  const auto again = run(words);
  EXPECT_EQ(again.status, 0) << again.error_output;
  EXPECT_EQ(again.output, "");
}

TEST_F(RunFilesTest, AProgramOfTheCurrentFolderIsFound) {
  write("tool", "#!/bin/sh\ncat \"$1\"\n");
  ::chmod(path("tool").c_str(), 0755);
  write("a", "alpha\n");
  const auto ended = run({"--in", "{}", "./tool", "{}", ":::", "a"});
  EXPECT_EQ(ended.output, "alpha\n") << ended.error_output;
}

TEST_F(RunFilesTest, LargeOutputsComeBackWhole) {
  const auto ended =
      run({"--out", "{}.big", "head -c 9000000 /dev/zero > {}.big", ":::", "1", "2", "3"});
  EXPECT_EQ(ended.status, 0) << ended.error_output;
  for (const char* name : {"1.big", "2.big", "3.big"}) {
    EXPECT_EQ(fs::file_size(path(name)), 9'000'000U);
  }
}

}  // namespace
}  // namespace muster::test
