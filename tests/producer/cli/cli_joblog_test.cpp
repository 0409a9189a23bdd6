// The job log is GNU parallel's, and --resume reads back what was written, by either program.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "producer/cli/run/joblog.hpp"

namespace muster {
namespace {

// Written by GNU parallel 20221122.
constexpr const char* kByParallel =
    "Seq\tHost\tStarttime\tJobRuntime\tSend\tReceive\tExitval\tSignal\tCommand\n"
    "2\t:\t1795219786.322\t     0.114\t0\t2\t1\t0\techo 1; exit 1\n"
    "1\t:\t1795219786.316\t     0.148\t0\t2\t0\t0\techo 0; exit 0\n"
    "3\t:\t1795219786.663\t     1.446\t0\t0\t-1\t15\tsleep 5; echo 5\n"
    "4\t:\t1795219820.406\t     0.001\t0\t0\t0\t9\tkill -9 $$ 1\n";

TEST(Joblog, WritesTheLineThatParallelWrites) {
  const JoblogEntry entry{2, ":", 1795219786.322, 0.114, 0, 2, 1, 0, "echo 1; exit 1"};
  EXPECT_EQ(format_joblog(entry), "2\t:\t1795219786.322\t     0.114\t0\t2\t1\t0\techo 1; exit 1\n");
}

TEST(Joblog, ReadsBackWhatItWrites) {
  const JoblogEntry entry{12, "node-7", 1.5, 12345.678, 0, 99, -1, 15, "printf 'a\tb\nc'"};
  std::string line = format_joblog(entry);
  EXPECT_EQ(line.find('\n'), line.size() - 1);
  line.pop_back();
  const auto read = parse_joblog(line);
  ASSERT_TRUE(read.has_value());
  EXPECT_EQ(read->number, 12U);
  EXPECT_EQ(read->host, "node-7");
  EXPECT_DOUBLE_EQ(read->runtime_seconds, 12345.678);
  EXPECT_EQ(read->received_bytes, 99U);
  EXPECT_EQ(read->exit_status, -1);
  EXPECT_EQ(read->signal, 15);
  EXPECT_EQ(read->command, entry.command);
}

TEST(Joblog, RefusesLinesThatAreNoJobs) {
  EXPECT_FALSE(parse_joblog("").has_value());
  EXPECT_FALSE(parse_joblog("Seq\tHost\tStarttime\tJobRuntime\tSend\tReceive\tExitval\tSignal\tC"));
  EXPECT_FALSE(parse_joblog("1\t:\t1.0\t0.1\t0").has_value());
  EXPECT_FALSE(parse_joblog("-1\t:\t1.0\t0.1\t0\t0\t0\t0\tx").has_value());
}

TEST(Joblog, ResumeLeavesOutWhatTheLogMentions) {
  EXPECT_EQ(jobs_to_skip(kByParallel, Resume::unfinished).size(), 4U);
  EXPECT_TRUE(jobs_to_skip(kByParallel, Resume::no).empty());
}

TEST(Joblog, ResumeFailedLeavesOutSuccessesOnly) {
  const auto skip = jobs_to_skip(kByParallel, Resume::failed);
  EXPECT_EQ(skip.size(), 1U);
  EXPECT_TRUE(skip.contains(1));
}

TEST(Joblog, TheLastEntryAboutAJobCounts) {
  const std::string log = std::string(kByParallel) + "2\t:\t1.000\t 0.114\t0\t2\t0\t0\tok\n" +
                          "1\t:\t1.000\t 0.114\t0\t2\t5\t0\tnow it fails\n";
  const auto skip = jobs_to_skip(log, Resume::failed);
  EXPECT_TRUE(skip.contains(2));
  EXPECT_FALSE(skip.contains(1));
}

TEST(Joblog, ALineCutShortIsAnUnfinishedJob) {
  const std::string log =
      std::string(kByParallel) + "5\t:\t1795219786.663\t     1.446\t0\t0\t0\t0\te";
  EXPECT_FALSE(jobs_to_skip(log, Resume::unfinished).contains(5));
}

class JoblogFileTest : public ::testing::Test {
 protected:
  JoblogFileTest()
      : path_(std::filesystem::path(::testing::TempDir()) /
              ("joblog-" + std::to_string(::testing::UnitTest::GetInstance()->random_seed()) + "-" +
               ::testing::UnitTest::GetInstance()->current_test_info()->name())) {
    std::filesystem::remove(path_);
  }
  ~JoblogFileTest() override { std::filesystem::remove(path_); }
  void put(const std::string& text) { std::ofstream(path_) << text; }
  std::string text() { return read_whole_file(path_); }

  std::filesystem::path path_;
};

TEST_F(JoblogFileTest, StartsAnewUnlessItAppends) {
  put("old\n");
  { JoblogFile file(path_, false); }
  EXPECT_EQ(text(), kJoblogHeader);
  put("old\n");
  { JoblogFile file("+" + path_.string(), false); }
  EXPECT_EQ(text(), "old\n");
}

TEST_F(JoblogFileTest, AppendsAfterALineCutShort) {
  put("old, cut sh");
  {
    JoblogFile file(path_, true);
    EXPECT_TRUE(file.write({1, ":", 0, 0, 0, 0, 0, 0, "x"}));
  }
  EXPECT_EQ(text(), "old, cut sh\n1\t:\t0.000\t     0.000\t0\t0\t0\t0\tx\n");
}

TEST_F(JoblogFileTest, NamesTheFileThatCannotBeWritten) {
  for (const char* path : {"/dev/full", "/nonexistent/joblog"}) {
    try {
      const JoblogFile file(path, false);
      FAIL() << path;
    } catch (const std::runtime_error& error) {
      EXPECT_NE(std::string(error.what()).find(path), std::string::npos) << error.what();
    }
  }
}

}  // namespace
}  // namespace muster
