// Key files: what is written reads back, and what is no key file, or open to others, says so.
#include "common/net/key_file.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <fstream>
#include <functional>
#include <sstream>

#include "common/net/transport.hpp"
#include "tests/support/child.hpp"

namespace muster {
namespace {

class KeyFile : public ::testing::Test {
 protected:
  std::string write(const std::string& name, const std::string& text, mode_t mode) {
    std::string path = folder_.path(name);
    std::ofstream(path) << text;
    chmod(path.c_str(), mode);
    return path;
  }
  static std::string text_of(const std::string& path) {
    std::ostringstream text;
    text << std::ifstream(path).rdbuf();
    return text.str();
  }
  static mode_t mode_of(const std::string& path) {
    struct stat status {};
    EXPECT_EQ(stat(path.c_str(), &status), 0) << path;
    return status.st_mode & 07777;
  }
  static std::string failure(const std::function<void()>& action) {
    try {
      action();
    } catch (const TransportError& error) {
      return error.what();
    }
    return "";
  }
  std::string failure_to_read(const std::string& path) {
    return failure([&] { read_key_file(path); });
  }

  testing::TemporaryFolder folder_;
  const KeyPair pair_ = make_key_pair("node1");
  const std::string path_ = folder_.path("node1.key");
};

TEST_F(KeyFile, WhatIsWrittenReadsBack) {
  write_key_files(path_, pair_, false);
  EXPECT_EQ(mode_of(path_), 0600U);
  const KeyPair read = read_key_file(path_);
  EXPECT_EQ(read.name, pair_.name);
  EXPECT_EQ(read.public_key, pair_.public_key);
  EXPECT_EQ(read.secret_key, pair_.secret_key);
  EXPECT_EQ(text_of(path_ + ".pub"), pair_.public_key + " node1\n");
  EXPECT_EQ(text_of(path_ + ".pub").find(pair_.secret_key), std::string::npos);
  EXPECT_EQ(read_public_key(path_ + ".pub"), pair_.public_key);
  EXPECT_EQ(read_public_key(pair_.public_key), pair_.public_key);
}

TEST_F(KeyFile, ASharedSecretReadsBackAndIsNoKeyFile) {
  const SharedSecret secret = make_shared_secret("cluster");
  const std::string path = folder_.path("secret");
  write_secret_file(path, secret, false);
  EXPECT_EQ(mode_of(path), 0600U);
  const SharedSecret read = read_secret_file(path);
  EXPECT_EQ(read.name, "cluster");
  EXPECT_EQ(read.password, secret.password);
  EXPECT_EQ(read.proof, secret.proof);
  EXPECT_NE(secret.password, secret.proof);
  EXPECT_NE(failure([&] { write_secret_file(path, secret, false); }).find("exists"),
            std::string::npos);
  EXPECT_NE(failure_to_read(path).find("not a key file"), std::string::npos);
  write_key_files(path_, pair_, false);
  EXPECT_NE(failure([&] { read_secret_file(path_); }).find("--secret"), std::string::npos);
  const std::string mangled = write("mangled", "name cluster\npassword hunter2\nproof x\n", 0600);
  const std::string error = failure([&] { read_secret_file(mangled); });
  EXPECT_NE(error.find("mangled"), std::string::npos);
  EXPECT_EQ(error.find("hunter2"), std::string::npos);
  chmod(path.c_str(), 0644);
  EXPECT_NE(failure([&] { read_secret_file(path); }).find("chmod 600"), std::string::npos);
}

TEST_F(KeyFile, IsNeverOverwrittenUnlessTold) {
  write_key_files(path_, pair_, false);
  const KeyPair other = make_key_pair("other");
  EXPECT_NE(failure([&] { write_key_files(path_, other, false); }).find("--force"),
            std::string::npos);
  EXPECT_EQ(read_key_file(path_).secret_key, pair_.secret_key);
  chmod(path_.c_str(), 0644);
  write_key_files(path_, other, true);
  EXPECT_EQ(read_key_file(path_).secret_key, other.secret_key);
  EXPECT_EQ(mode_of(path_), 0600U);
  remove(path_.c_str());
  EXPECT_NE(failure([&] { write_key_files(path_, pair_, false); }).find(".pub' exists"),
            std::string::npos)
      << "the public key of another secret one stays as well";
}

TEST_F(KeyFile, OpenToOthersItIsRefusedWithTheFix) {
  write_key_files(path_, pair_, false);
  for (const mode_t mode : {0644U, 0640U, 0604U, 0602U, 0660U}) {
    chmod(path_.c_str(), mode);
    const std::string text = failure_to_read(path_);
    EXPECT_NE(text.find("chmod 600 " + path_), std::string::npos) << text;
    EXPECT_EQ(text.find(pair_.secret_key), std::string::npos) << text;
  }
  chmod(path_.c_str(), 0400);
  EXPECT_EQ(failure_to_read(path_), "");
}

TEST_F(KeyFile, WhatIsNoKeyFileSaysSoWithoutItsText) {
  const std::string good_lines = "public " + pair_.public_key + "\nsecret " + pair_.secret_key;
  EXPECT_EQ(failure_to_read(write("good", "# by hand\n\n" + good_lines + "\n", 0600)), "");
  const KeyPair other = make_key_pair("other");
  for (const std::string& text : std::vector<std::string>{
           "", "secret " + pair_.secret_key, good_lines + "x", good_lines + "\npassword x",
           good_lines + "\nsecret " + pair_.secret_key, "secret\n",
           "public " + other.public_key + "\nsecret " + pair_.secret_key}) {
    const std::string error = failure_to_read(write("bad", text, 0600));
    EXPECT_NE(error.find("muster keygen"), std::string::npos) << text;
    EXPECT_EQ(error.find(pair_.secret_key), std::string::npos) << error;
  }
  EXPECT_NE(failure_to_read(folder_.path("none")).find("No such file"), std::string::npos);
  EXPECT_NE(failure_to_read("/tmp").find("not a file"), std::string::npos);
  EXPECT_NE(
      failure([&] {
        read_public_key(write("two", public_line(pair_) + "\n" + public_line(other) + "\n", 0644));
      }).find("one public key"),
      std::string::npos);
}

TEST_F(KeyFile, AuthorizedWorkersAreOneALine) {
  const KeyPair other = make_key_pair("node-2.example.org");
  const std::string path = write(
      "authorized", "# ours\n\n" + public_line(pair_) + "\n  " + public_line(other) + "  \n", 0644);
  const auto keys = read_authorized_keys(path);
  ASSERT_EQ(keys.size(), 2U);
  EXPECT_EQ(keys[0].key, pair_.public_key);
  EXPECT_EQ(keys[1].name, "node-2.example.org");
  EXPECT_TRUE(read_authorized_keys(write("empty", "", 0600)).empty());
}

TEST_F(KeyFile, AuthorizedWorkersNameTheLineThatIsWrong) {
  const std::string good = public_line(pair_) + "\n";
  for (const std::string& line :
       std::vector<std::string>{pair_.public_key, pair_.public_key + " two names", "short node3",
                                pair_.public_key + " a/b", "secret " + pair_.secret_key}) {
    const std::string path = write("authorized", fmt::format("{}#\n{}\n", good, line), 0644);
    const std::string text = failure([&] { read_authorized_keys(path); });
    EXPECT_NE(text.find(path + ":3: "), std::string::npos) << text;
    EXPECT_EQ(text.find(pair_.secret_key), std::string::npos) << text;
  }
  const std::string twice = write("authorized", good + good, 0644);
  EXPECT_NE(failure([&] { read_authorized_keys(twice); }).find("twice"), std::string::npos);
  const std::string open = write("authorized", good, 0664);
  EXPECT_NE(failure([&] { read_authorized_keys(open); }).find("chmod 644"), std::string::npos);
}

TEST_F(KeyFile, FilesThatSystemdHandsOverArePrivateAnyhow) {
  write_key_files(path_, pair_, false);
  chmod(path_.c_str(), 0440);  // an access control list shows so
  EXPECT_NE(failure_to_read(path_), "");
  setenv("CREDENTIALS_DIRECTORY", folder_.path("").substr(0, folder_.path("").size() - 1).c_str(),
         1);
  EXPECT_EQ(failure_to_read(path_), "");
  EXPECT_NE(failure_to_read(folder_.path("../") + path_.substr(5)), "") << "not around corners";
  unsetenv("CREDENTIALS_DIRECTORY");
}

}  // namespace
}  // namespace muster
