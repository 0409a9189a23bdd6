// Which nodes the next broker brings up.
#include "broker/hosts/wanted_nodes.hpp"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>

#include "tests/support/child.hpp"

namespace muster {
namespace {

using Names = std::vector<std::string>;

class WantedNodesTest : public ::testing::Test {
 protected:
  // As the next broker reads them: "origin: names".
  std::vector<std::string> kept() const {
    std::vector<std::string> lines;
    const WantedNodes wanted(path_);
    for (const WantedNodes::Entry& entry : wanted.entries()) {
      std::string line = entry.origin + " (" + entry.hosts + "):";
      for (const std::string& name : entry.names) line += " " + name;
      lines.push_back(line);
    }
    return lines;
  }

  testing::TemporaryFolder folder_;
  const std::string path_ = folder_.path("broker.nodes");
};

TEST_F(WantedNodesTest, WhatCameUpAndDidNotGoDownIsKept) {
  WantedNodes wanted(path_);
  EXPECT_TRUE(wanted.entries().empty());
  wanted.up({"/a.toml", "first text", {"n1", "n2"}});
  wanted.up({"", "second\ntext", {"n3"}});
  EXPECT_EQ(kept(), (Names{"/a.toml (first text): n1 n2", " (second\ntext): n3"}));
  wanted.down({"n1"});
  wanted.up({"/b.toml", "third", {"n3", "n4"}});
  EXPECT_EQ(kept(), (Names{"/a.toml (first text): n2", "/b.toml (third): n3 n4"}))
      << "a host that is described anew is kept as it is now";
  wanted.down({});
  EXPECT_TRUE(kept().empty());
  EXPECT_NE(access(path_.c_str(), F_OK), 0) << "nothing wanted, no file";
}

TEST_F(WantedNodesTest, TheFileIsForItsUserAlone) {
  WantedNodes(path_).up({"/a.toml", "text", {"n1"}});
  struct stat entry {};
  ASSERT_EQ(stat(path_.c_str(), &entry), 0);
  EXPECT_EQ(entry.st_mode & 0777, 0600U);
}

TEST_F(WantedNodesTest, ADamagedFileHasNoNodes) {
  for (const char* text : {"[{\"origin\": 3}]", "{", "[[]]", "null"}) {
    std::ofstream(path_, std::ios::trunc) << text;
    EXPECT_TRUE(kept().empty()) << text;
  }
}

}  // namespace
}  // namespace muster
