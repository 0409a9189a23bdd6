// What ssh config files say that libssh does not obey, as examine_ssh_config() reads them.
#include "broker/hosts/ssh_config.hpp"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <string>

namespace muster {
namespace {

class SshConfigTest : public testing::Test {
 protected:
  SshConfigTest() {
    std::string name = (std::filesystem::temp_directory_path() / "muster-config-XXXXXX").string();
    folder = mkdtemp(name.data());
  }
  ~SshConfigTest() override { std::filesystem::remove_all(folder); }

  std::string write(const std::string& name, const std::string& text) const {
    std::ofstream(folder / name) << text;
    return (folder / name).string();
  }
  SshConfigFindings examine(const std::string& text, const std::string& address = "node1",
                            const std::string& user = "ada") const {
    return examine_ssh_config({write("config", text)}, address, user);
  }

  std::filesystem::path folder;
};

TEST_F(SshConfigTest, NamesFileAndLine) {
  const SshConfigFindings found = examine("# first\n\nHostKeyAlias other\n");
  ASSERT_EQ(found.warnings.size(), 1);
  EXPECT_TRUE(found.warnings[0].starts_with((folder / "config").string() + ":3: "));
  EXPECT_NE(found.warnings[0].find("via = \"openssh\""), std::string::npos);
}

TEST_F(SshConfigTest, ValuesThatChangeNothingAreFine) {
  EXPECT_TRUE(examine("ControlMaster no\nGSSAPIAuthentication no\nPKCS11Provider none\nPort 22\n")
                  .warnings.empty());
}

TEST_F(SshConfigTest, EqualsSignsQuotesAndCommentsAreUnderstood) {
  EXPECT_EQ(examine("hostkeyalias=a").warnings.size(), 1);
  EXPECT_EQ(examine("HostKeyAlias = a").warnings.size(), 1);
  EXPECT_EQ(examine("\tHostKeyAlias \"a b\" # words").warnings.size(), 1);
  EXPECT_TRUE(examine("#HostKeyAlias a").warnings.empty());
}

TEST_F(SshConfigTest, OnlyLinesForTheHostCount) {
  const std::string text = "Host node*.example !node7.example\n  HostKeyAlias a\n";
  EXPECT_EQ(examine(text, "node1.example").warnings.size(), 1);
  EXPECT_EQ(examine(text, "NODE1.example").warnings.size(), 1);
  EXPECT_TRUE(examine(text, "node7.example").warnings.empty());
  EXPECT_TRUE(examine(text, "other").warnings.empty());
}

TEST_F(SshConfigTest, TheFirstValueCounts) {
  EXPECT_TRUE(examine("IdentitiesOnly yes\nIdentitiesOnly no\n").identities_only);
  EXPECT_FALSE(examine("IdentitiesOnly no\nIdentitiesOnly yes\n").identities_only);
}

TEST_F(SshConfigTest, IdentityFilesAddUp) {
  const SshConfigFindings found = examine(
      "IdentityFile ~/a\nHost other\n  IdentityFile ~/b\nHost *\n  IdentityFile \"/c d\"\n");
  EXPECT_EQ(found.identity_files, (std::vector<std::string>{"~/a", "/c d"}));
}

TEST_F(SshConfigTest, MatchBlocks) {
  EXPECT_EQ(examine("Match host node1 user ada,bob\n  HostKeyAlias a\n").warnings.size(), 1);
  EXPECT_TRUE(examine("Match host node1 user bob\n  HostKeyAlias a\n").warnings.empty());
  EXPECT_EQ(examine("Match !user bob\n  HostKeyAlias a\n").warnings.size(), 1);
  EXPECT_EQ(examine("Match all\n  HostKeyAlias a\n").warnings.size(), 1);
  EXPECT_EQ(examine("HostName real\nMatch host real\n  HostKeyAlias a\n").warnings.size(), 1);
}

TEST_F(SshConfigTest, WhatACommandDecidesIsNamed) {
  const SshConfigFindings found = examine("Match exec \"test -f /x\"\n  HostKeyAlias a\n");
  ASSERT_EQ(found.warnings.size(), 1);
  EXPECT_NE(found.warnings[0].find("Match exec"), std::string::npos);
}

TEST_F(SshConfigTest, IncludedFilesAreRead) {
  const std::string inner =
      write("inner", "Host other\n  HostKeyAlias a\nHost *\n  CertificateFile b\n");
  const SshConfigFindings found = examine("Include " + inner + "\nHostKeyAlias c\n");
  ASSERT_EQ(found.warnings.size(), 2);
  EXPECT_TRUE(found.warnings[0].starts_with(inner + ":4: "));
  EXPECT_NE(found.warnings[1].find("HostKeyAlias c"), std::string::npos);
}

TEST_F(SshConfigTest, AFileThatIncludesItselfEnds) {
  const std::string path = (folder / "config").string();
  EXPECT_EQ(examine("Include " + path + "\nHostKeyAlias a\n").warnings.size(), 1);
}

TEST_F(SshConfigTest, WhatCannotBeReadSaysNothing) {
  EXPECT_TRUE(examine_ssh_config({"/nowhere/config"}, "node1", "").warnings.empty());
}

}  // namespace
}  // namespace muster
