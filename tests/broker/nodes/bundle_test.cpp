// Texts for the node's shell, and what a node must have for the bundle.
#include "broker/nodes/bundle.hpp"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "broker/hosts/digest.hpp"
#include "broker/nodes/environment.hpp"
#include "tests/support/child.hpp"

namespace muster {
namespace {

using testing::run_to_end;

TEST(Bundle, KnowsWhichVersionIsOlder) {
  EXPECT_TRUE(older_version("2.31", "2.36"));
  EXPECT_TRUE(older_version("2.9", "2.36"));
  EXPECT_TRUE(older_version("2", "2.1"));
  EXPECT_FALSE(older_version("2.36", "2.36"));
  EXPECT_FALSE(older_version("2.40", "2.36"));
  EXPECT_FALSE(older_version("3", "2.36"));
}

std::string refusal(const NodeFacts& facts) {
  Bundle bundle;
  bundle.arch = "x86_64";
  bundle.glibc = "2.36";
  try {
    check_fits(bundle, facts);
  } catch (const NodeError& error) {
    EXPECT_EQ(error.kind(), NodeError::Kind::lasting);
    return error.what();
  }
  return "";
}

TEST(Bundle, SaysWhyItDoesNotFitANode) {
  EXPECT_EQ(refusal({"/c", "x86_64", "2.36", 0}), "");
  EXPECT_NE(refusal({"/c", "aarch64", "2.36", 0}).find("the node is aarch64"), std::string::npos);
  EXPECT_NE(refusal({"/c", "x86_64", "2.31", 0}).find("needs glibc 2.36"), std::string::npos);
  EXPECT_NE(refusal({"/c", "x86_64", "", 0}).find("no glibc"), std::string::npos);
}

// sh stands for whatever the user's shell is: it gets one word.
TEST(Bundle, ScriptsReachTheShellAsTheyAre) {
  const std::string script = "x='a b'; printf \"%s|%s\" \"$x\" \"$(echo '$y')\"";
  EXPECT_EQ(run_to_end({"/bin/sh", "-c", shell_command(script)}).output, "a b|$y");
}

TEST(Bundle, DigestsAreTheSystems) {
  EXPECT_EQ(sha256_of("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(random_hex(48).size(), 48U);
  EXPECT_NE(random_hex(48), random_hex(48));
}

class Includes : public ::testing::Test {
 protected:
  std::string digest() {
    Host host;
    host.includes = {folder_.path("package"), folder_.path("single.py")};
    return describe_image(host, {}).include;
  }
  void write(const std::string& name, const std::string& text) {
    const std::filesystem::path path = folder_.path(name);
    std::filesystem::create_directories(path.parent_path());
    std::ofstream(path) << text;
  }
  testing::TemporaryFolder folder_;
};

TEST_F(Includes, AreNamedByWhatTasksWouldImport) {
  write("package/__init__.py", "");
  write("package/deep/a.py", "1");
  write("single.py", "2");
  const std::string first = digest();
  write("package/__pycache__/a.cpython-311.pyc", "x");
  write("package/.git/HEAD", "x");
  EXPECT_EQ(digest(), first);
  write("package/deep/a.py", "3");
  EXPECT_NE(digest(), first);
}

TEST_F(Includes, ThatAreNotThereAreNamed) {
  write("package/__init__.py", "");
  try {
    digest();
    FAIL();
  } catch (const NodeError& error) {
    EXPECT_EQ(error.kind(), NodeError::Kind::lasting);
    EXPECT_NE(std::string(error.what()).find("single.py"), std::string::npos) << error.what();
  }
}

TEST(Image, EnvironmentsDifferByWhatIsInThem) {
  Bundle bundle;
  bundle.version = "1";
  bundle.python = "3.11";
  Host host;
  EXPECT_EQ(describe_image(host, {}).environment, "");  // a Muster without Python
  const Image unasked = describe_image(host, bundle);
  EXPECT_TRUE(unasked.may_lack_python);
  host.python = kNoPython;
  EXPECT_EQ(describe_image(host, bundle).environment, "");
  host.python = "3.11";
  EXPECT_FALSE(describe_image(host, bundle).may_lack_python);
  EXPECT_NE(describe_image(host, bundle).environment, unasked.environment);
  host.pip = {"numpy==1", "joblib"};
  const std::string first = describe_image(host, bundle).environment;
  std::swap(host.pip[0], host.pip[1]);
  EXPECT_EQ(describe_image(host, bundle).environment, first);
  host.pip[0] = "joblib==1";
  EXPECT_NE(describe_image(host, bundle).environment, first);
  host.worker = "/usr/bin/muster-worker";  // installed: it takes the interpreter as it is
  EXPECT_EQ(describe_image(host, {}).environment, "");
}

}  // namespace
}  // namespace muster
