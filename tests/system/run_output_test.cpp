// `muster run` of commands that write: every size of output arrives whole, whatever a pipe holds;
// and what commands inherit from the program that started it all.
#include <gtest/gtest.h>

#include <array>
#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "tests/system/cli_process.hpp"

namespace muster::test {
namespace {

using Words = std::vector<std::string>;

constexpr std::size_t kPipeBytes = 65'536;
constexpr std::array<std::size_t, 6> kSizes = {0,       1,        kPipeBytes, kPipeBytes + 1,
                                               200'000, 1'000'000};

Ended run(const Words& words, const Words& before = {}) {
  Process::Setup setup;
  setup.argv = before;
  setup.argv.insert(setup.argv.end(), {MUSTER_BIN_DIR "/muster", "run"});
  setup.argv.insert(setup.argv.end(), words.begin(), words.end());
  setup.environment = {{"MUSTER_BROKER", ""}};
  return run_process(setup);
}

// The beginning of the same line again and again, as `yes TEXT | head -c SIZE` writes it.
std::string repeated(std::string_view text, std::size_t size_bytes) {
  std::string all;
  all.reserve(size_bytes + text.size() + 1);
  while (all.size() < size_bytes) all.append(text).append("\n");
  all.resize(size_bytes);
  return all;
}

// Where they begin to differ, or nothing: whole outputs say nothing in a report.
std::string difference(const std::string& found, const std::string& wanted) {
  if (found == wanted) return "";
  std::size_t at = 0;
  while (at < found.size() && at < wanted.size() && found[at] == wanted[at]) ++at;
  return "byte " + std::to_string(at) + ", " + std::to_string(found.size()) + " bytes of " +
         std::to_string(wanted.size());
}

TEST(RunOutput, OfEverySizeArrivesWhole) {
  constexpr std::size_t kCommands = 120;
  std::string script = "case $(({#} % 6)) in ";
  for (std::size_t kind = 0; kind < kSizes.size(); ++kind) {
    script += std::to_string(kind) + ") n=" + std::to_string(kSizes[kind]) + ";; ";
  }
  script += "esac; yes o{} | head -c $n; yes e{} | head -c $((n / 2)) >&2";
  Words words = {"-j4", script, ":::"};
  std::string output;
  std::string errors;
  for (std::size_t job = 1; job <= kCommands; ++job) {
    const std::string name = std::to_string(job);
    const std::size_t size_bytes = kSizes[job % kSizes.size()];
    words.push_back(name);
    output += repeated("o" + name, size_bytes);
    errors += repeated("e" + name, size_bytes / 2);
  }
  const Ended ended = run(words);
  EXPECT_EQ(ended.status, 0);
  EXPECT_EQ(difference(ended.output, output), "");
  EXPECT_EQ(difference(ended.error_output, errors), "");
}

TEST(RunOutput, OfManyLargeOnesArrivesWhole) {
  constexpr std::size_t kCommands = 300;
  constexpr std::size_t kBytes = 1'000'000;
  Words words = {"-j4", "head -c " + std::to_string(kBytes) + " /dev/zero; : {}", ":::"};
  for (std::size_t job = 0; job < kCommands; ++job) words.push_back(std::to_string(job));
  const Ended ended = run(words);
  EXPECT_EQ(ended.status, 0) << ended.error_output;
  EXPECT_EQ(ended.output.size(), kCommands * kBytes);
}

TEST(RunOutput, ComesFromCommandsWithTheLimitOfDescriptorsOfHome) {
  const Ended ended = run({"-j1", "ulimit -S -n; : {}", ":::", "x"},
                          {"sh", "-c", "ulimit -S -n 333 && exec \"$@\"", "sh"});
  EXPECT_EQ(ended.output, "333\n") << ended.error_output;
}

TEST(RunOutput, EndsAlsoWhereSignalsOfEndedChildrenAreIgnored) {
  const Ended ended = run({"-j1", "exit 3; : {}", ":::", "x"}, {"env", "--ignore-signal=CHLD"});
  EXPECT_EQ(ended.status, 1) << "one job failed; " << ended.error_output;
}

}  // namespace
}  // namespace muster::test
