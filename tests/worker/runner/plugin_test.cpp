// Plug-ins: what loads, and what people are told when one does not.
#include "worker/runner/plugin.hpp"

#include <gtest/gtest.h>

#include <string>

namespace muster {
namespace {

std::string load_error(FunctionRegistry& functions, const std::string& file) {
  try {
    functions.load(file);
  } catch (const PluginError& error) {
    return error.what();
  }
  return "";
}

TEST(Plugin, OffersItsFunctions) {
  FunctionRegistry functions;
  EXPECT_EQ(load_error(functions, MUSTER_PLUGIN_DIR "/test_tasks.so"), "");
  EXPECT_NE(functions.find("square"), nullptr);
  EXPECT_EQ(functions.find("cube"), nullptr);
}

TEST(Plugin, SaysWhatIsWrongWithAFile) {
  FunctionRegistry functions;
  const std::string missing = load_error(functions, "/nowhere/tasks.so");
  EXPECT_NE(missing.find("/nowhere/tasks.so"), std::string::npos) << missing;
  EXPECT_NE(missing.find("No such file"), std::string::npos) << missing;
  const std::string other = load_error(functions, "/lib/x86_64-linux-gnu/libm.so.6");
  EXPECT_NE(other.find("not a Muster plug-in"), std::string::npos) << other;
}

TEST(Plugin, RefusesANameTwice) {
  FunctionRegistry functions;
  functions.load(MUSTER_PLUGIN_DIR "/test_tasks.so");
  const std::string twice = load_error(functions, MUSTER_PLUGIN_DIR "/test_tasks.so");
  EXPECT_NE(twice.find("registered already"), std::string::npos) << twice;
}

}  // namespace
}  // namespace muster
