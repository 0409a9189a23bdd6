// The replacement strings and the quoting of `muster run` give what GNU parallel gives.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "producer/cli/run/command_template.hpp"

namespace muster {
namespace {

using Words = std::vector<std::string>;

std::string replaced(const std::string& placeholder, const std::string& input) {
  return CommandTemplate({"echo", placeholder}, false).argv(input, 7).at(1);
}

TEST(CommandTemplate, ReplacesEveryPlaceholder) {
  const CommandTemplate command({"cp", "{}", "out/{/.}-{#}{.}", "{//}:{/}"}, false);
  EXPECT_EQ(command.mode(), CommandMode::argv);
  EXPECT_EQ(command.argv("a b/c.tar.gz", 12),
            (Words{"cp", "a b/c.tar.gz", "out/c.tar-12a b/c.tar", "a b:c.tar.gz"}));
}

TEST(CommandTemplate, AppendsTheInputWhenNothingAsksForIt) {
  EXPECT_EQ(CommandTemplate({"echo", "-n"}, false).argv("it's", 1), (Words{"echo", "-n", "it's"}));
}

TEST(CommandTemplate, NumberAloneIsAPlaceholder) {
  EXPECT_EQ(CommandTemplate({"echo", "{#}"}, false).argv("x", 3), (Words{"echo", "3"}));
}

TEST(CommandTemplate, LeavesOtherBracesAlone) { EXPECT_EQ(replaced("{{}}{x}{", "v"), "{v}{x}{"); }

TEST(CommandTemplate, CutsPathsAsParallelDoes) {
  struct Case {
    std::string input, no_extension, base, directory, base_no_extension;
  };
  // What `parallel --dry-run` of Debian 12 prints.
  const std::vector<Case> cases{
      {"x.tar.gz", "x.tar", "x.tar.gz", ".", "x.tar"},
      {".bashrc", "", ".bashrc", ".", ""},
      {"a.d/b", "a.d/b", "b", "a.d", "b"},
      {"/x/", "/x/", "", "/", ""},
      {"a/b/", "a/b/", "", "a", ""},
      {"/", "/", "", "/", ""},
      {"a/.b", "a/", ".b", "a", ""},
      {"", "", "", ".", ""},
      {"a//b.c", "a//b", "b.c", "a", "b"},
      {"end.", "end.", "end.", ".", "end."},
  };
  for (const auto& expected : cases) {
    EXPECT_EQ(replaced("{.}", expected.input), expected.no_extension) << expected.input;
    EXPECT_EQ(replaced("{/}", expected.input), expected.base) << expected.input;
    EXPECT_EQ(replaced("{//}", expected.input), expected.directory) << expected.input;
    EXPECT_EQ(replaced("{/.}", expected.input), expected.base_no_extension) << expected.input;
  }
}

TEST(CommandTemplate, OneWordWithShellCharactersGoesToTheShell) {
  const CommandTemplate command({"echo {} | tr a b > {.}.out"}, false);
  EXPECT_EQ(command.mode(), CommandMode::shell);
  EXPECT_EQ(command.argv("a b.c", 1),
            (Words{"/bin/sh", "-c", "echo 'a b.c' | tr a b > 'a b'.out"}));
}

TEST(CommandTemplate, OneHarmlessWordNeedsNoShell) {
  EXPECT_EQ(CommandTemplate({"./check"}, false).argv("x y", 1), (Words{"./check", "x y"}));
}

TEST(CommandTemplate, ShellJoinsTheWordsAndQuotesTheInput) {
  const CommandTemplate command({"echo", "$HOME", "{}"}, true);
  EXPECT_EQ(command.argv("a;b", 1), (Words{"/bin/sh", "-c", "echo $HOME 'a;b'"}));
}

TEST(CommandTemplate, WithoutACommandEachInputIsOne) {
  const CommandTemplate command({}, false);
  EXPECT_EQ(command.mode(), CommandMode::input_lines);
  EXPECT_EQ(command.argv("echo $((1 + 1))", 1), (Words{"/bin/sh", "-c", "echo $((1 + 1))"}));
}

TEST(CommandTemplate, LineIsWhatOneWouldType) {
  EXPECT_EQ(CommandTemplate({"sh", "-c", "exit {}"}, false).line("3", 1), "sh -c 'exit 3'");
  EXPECT_EQ(CommandTemplate({"echo"}, false).line("", 1), "echo ''");
}

TEST(ShellQuote, IsThatOfGnuParallel) {
  EXPECT_EQ(shell_quote(""), "''");
  EXPECT_EQ(shell_quote("a/b-c_d.e+1"), "a/b-c_d.e+1");
  EXPECT_EQ(shell_quote("$HOME"), "'$HOME'");
  EXPECT_EQ(shell_quote("it's"), "'it'\"'\"'s'");
  EXPECT_EQ(shell_quote("'a"), "\"'\"'a'");
  EXPECT_EQ(shell_quote("\xc3\xa9"), "'\xc3\xa9'");
}

}  // namespace
}  // namespace muster
