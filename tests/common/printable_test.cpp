// Text of others on a terminal: everything that a terminal would obey is shown instead.
#include "common/printable.hpp"

#include <gtest/gtest.h>

#include <string>

namespace muster {
namespace {

struct Nasty {
  const char* name;
  std::string text;
  std::string shown;
};

class PrintableTest : public ::testing::TestWithParam<Nasty> {};

TEST_P(PrintableTest, IsShownAndNotObeyed) {
  EXPECT_EQ(printable(GetParam().text), GetParam().shown);
  EXPECT_EQ(printable(printable(GetParam().text)), GetParam().shown) << "a second time: no change";
}

INSTANTIATE_TEST_SUITE_P(
    Text, PrintableTest,
    ::testing::Values(Nasty{"Plain", "a value of 3 MB \\ \"x\"", "a value of 3 MB \\ \"x\""},
                      Nasty{"Empty", "", ""}, Nasty{"Lines", "a\n\tb\n", "a\n\tb\n"},
                      Nasty{"Languages", "é ß 漢字 🙂 \u00a0", "é ß 漢字 🙂 \u00a0"},
                      Nasty{"Colours", "\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"},
                      Nasty{"Title", "\x1b]0;owned\x07", "\\x1b]0;owned\\x07"},
                      Nasty{"Clipboard", "\x1b]52;c;cm0=\x1b\\", "\\x1b]52;c;cm0=\\x1b\\"},
                      Nasty{"Overwriting", "failed\rfine  \b\b", "failed\\x0dfine  \\x08\\x08"},
                      Nasty{"Zero", std::string("a\0b", 3), "a\\x00b"},
                      Nasty{"Delete", "a\x7f", "a\\x7f"},
                      Nasty{"C1AsUtf8",
                            "\xc2\x9b"
                            "31m",
                            "\\x9b31m"},
                      Nasty{"C1AsByte",
                            "\x9b"
                            "31m",
                            "\\x9b31m"},
                      Nasty{"NextLine", "\xc2\x85", "\\x85"},
                      Nasty{"Directions", "\u202efdp.exe\u202c \u2066x\u2069 \u200f\u061c",
                            "\\u202efdp.exe\\u202c \\u2066x\\u2069 \\u200f\\u061c"},
                      Nasty{"OverlongEscape", "\xc0\x9b", "\\xc0\\x9b"},
                      Nasty{"OverlongOfThree", "\xe0\x80\x9b", "\\xe0\\x80\\x9b"},
                      Nasty{"Surrogate", "\xed\xa0\x80", "\\xed\\xa0\\x80"},
                      Nasty{"BeyondUnicode", "\xf4\x90\x80\x80", "\\xf4\\x90\\x80\\x80"},
                      Nasty{"CutOff", "a\xe6\xbc", "a\\xe6\\xbc"},
                      Nasty{"EscapeWithin", "\xe6\x1b[2J", "\\xe6\\x1b[2J"}),
    [](const auto& test) { return std::string(test.param.name); });

TEST(PrintableLineTest, HasNoSecondLine) {
  EXPECT_EQ(printable_line("a\n\tb\x1b[2J\r\n"), "a  b\\x1b[2J\\x0d ");
}

}  // namespace
}  // namespace muster
