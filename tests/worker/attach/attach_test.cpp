// `muster-worker attach` and the worker that it starts or finds: real processes, no broker.
#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <regex>
#include <sstream>
#include <string>

#include "common/system/attach_exit.hpp"
#include "tests/support/child.hpp"

namespace muster {
namespace {

using testing::Child;
using testing::wait_until;

constexpr const char* kSecret = "f00dfeedcafe";

class Attach : public ::testing::Test {
 protected:
  // An attach whose standard input stays open until it is told otherwise.
  struct Session {
    testing::Pipe input = testing::make_pipe();
    std::unique_ptr<Child> child;

    void say(const std::string& text) const {
      ASSERT_EQ(write(input.write_end.get(), text.data(), text.size()),
                static_cast<ssize_t>(text.size()));
    }
    void hang_up() { input.write_end.reset(); }
    // The worker's process id; 0: there is none.
    int ready() const {
      if (!child->wait_for_output("ready ")) return 0;
      std::smatch found;
      const std::string text = child->output();
      return std::regex_search(text, found, std::regex("ready (\\d+)")) ? std::stoi(found[1]) : 0;
    }
  };

  ~Attach() override {
    Session last = attach({{"end_only", true}, {"end_seconds", 0}});
    last.child->wait();
  }

  nlohmann::json config() const {
    return {{"pool", "pool"},       {"node", "here"},        {"endpoint", "tcp://127.0.0.1:1"},
            {"user", "here"},       {"password", kSecret},   {"proof", kSecret},
            {"slots", 1},           {"executor", "process"}, {"version", MUSTER_VERSION},
            {"orphan_grace", 86400}};
  }
  Session attach(const nlohmann::json& changes = nlohmann::json::object()) {
    nlohmann::json wanted = config();
    wanted.update(changes);
    return attach_line(wanted.dump());
  }
  Session attach_line(const std::string& line) {
    Session session;
    testing::ChildOptions options;
    options.environment = {"XDG_CACHE_HOME=" + folder_.path("cache"), "HOME=" + folder_.path(".")};
    options.descriptors = {{session.input.read_end.get(), 0}};
    session.child = std::make_unique<Child>(
        std::vector<std::string>{MUSTER_BIN_DIR "/muster-worker", "attach"}, options);
    session.input.read_end.reset();
    session.say(line + "\n");
    return session;
  }
  std::string run_folder() const { return folder_.path("cache/muster/run/pool"); }
  static std::string read(const std::string& path) {
    std::ifstream file(path);
    std::stringstream text;
    text << file.rdbuf();
    return text.str();
  }
  // A zombie has ended, too.
  static bool is_gone(int pid) {
    return wait_until([&] {
      const std::string stat = read("/proc/" + std::to_string(pid) + "/stat");
      return stat.empty() || stat.find(") Z") != std::string::npos;
    });
  }

  testing::TemporaryFolder folder_;
};

TEST_F(Attach, StartsAWorkerOfItsOwnSession) {
  Session session = attach();
  const int worker = session.ready();
  ASSERT_GT(worker, 0) << session.child->error_output();
  EXPECT_EQ(getsid(worker), worker);
  EXPECT_TRUE(session.child->wait_for_output("muster: worker"));
  EXPECT_EQ(std::filesystem::status(run_folder()).permissions(), std::filesystem::perms::owner_all);
}

TEST_F(Attach, TellsNobodyTheSecrets) {
  Session session = attach();
  const std::string worker = std::to_string(session.ready());
  for (const char* file : {"/cmdline", "/environ"}) {
    const std::string text = read("/proc/" + worker + file);
    EXPECT_FALSE(text.empty());
    EXPECT_EQ(text.find(kSecret), std::string::npos) << file;
  }
  for (const auto& file : std::filesystem::directory_iterator(run_folder())) {
    if (file.is_regular_file()) {
      EXPECT_EQ(read(file.path()).find(kSecret), std::string::npos) << file.path();
    }
  }
  EXPECT_EQ(session.child->error_output().find(kSecret), std::string::npos);
}

TEST_F(Attach, FindsTheWorkerAgainAfterTheConnectionBroke) {
  Session first = attach();
  const int worker = first.ready();
  first.child->signal(SIGKILL);
  EXPECT_EQ(first.child->wait(), 137);
  Session second = attach({{"endpoint", "tcp://127.0.0.1:2"}, {"password", "another"}});
  EXPECT_EQ(second.ready(), worker);
  EXPECT_TRUE(second.child->wait_for_output("worker " + std::to_string(worker) + " found"));
}

TEST_F(Attach, LeavesTheWorkerWhenItsInputEnds) {
  Session session = attach();
  const int worker = session.ready();
  session.hang_up();
  EXPECT_EQ(session.child->wait(), kAttachEnded);
  EXPECT_TRUE(wait_until(
      [&] { return read(run_folder() + "/log").find("tunnel is gone") != std::string::npos; }));
  EXPECT_EQ(kill(worker, 0), 0);
}

TEST_F(Attach, SurvivesTheEndOfItsSession) {
  Session session = attach();
  const int worker = session.ready();
  ASSERT_GT(worker, 0);
  ASSERT_EQ(kill(worker, SIGHUP), 0);
  Session second = attach();
  EXPECT_EQ(second.ready(), worker);
}

TEST_F(Attach, TakesTheWorkerFromAnOlderConnection) {
  Session first = attach();
  const int worker = first.ready();
  Session second = attach();
  EXPECT_EQ(second.ready(), worker);
  EXPECT_EQ(first.child->wait(), kAttachTaken);
}

TEST_F(Attach, OneOfManyAtOnceStartsTheWorker) {
  std::vector<Session> sessions;
  for (int i = 0; i < 5; ++i) sessions.push_back(attach());
  const int worker = sessions.front().ready();
  for (const Session& session : sessions) EXPECT_EQ(session.ready(), worker);
}

TEST_F(Attach, ReplacesAWorkerThatDiffers) {
  Session first = attach();
  const int old = first.ready();
  Session second = attach({{"slots", 2}});
  const int worker = second.ready();
  EXPECT_NE(worker, old);
  EXPECT_TRUE(is_gone(old));
  EXPECT_TRUE(second.child->wait_for_output("is another one than is wanted"));
}

TEST_F(Attach, EndsTheWorkerAndLeavesNothing) {
  Session session = attach();
  const int worker = session.ready();
  session.say("end 5\n");
  EXPECT_EQ(session.child->wait(), kAttachEnded);
  EXPECT_TRUE(is_gone(worker));
  EXPECT_FALSE(std::filesystem::exists(run_folder()));
}

TEST_F(Attach, EndsAWorkerThatNobodyHolds) {
  Session first = attach();
  const int worker = first.ready();
  first.hang_up();
  EXPECT_EQ(first.child->wait(), kAttachEnded);
  Session second = attach({{"end_only", true}, {"end_seconds", 5}});
  EXPECT_EQ(second.child->wait(), kAttachEnded);
  EXPECT_TRUE(is_gone(worker));
  EXPECT_FALSE(std::filesystem::exists(run_folder()));
}

// Whatever the file says that names its process: anybody of this user may have written it.
TEST_F(Attach, KillsTheWorkerThatDoesNotAnswerAndNobodyElse) {
  Session first = attach();
  const int worker = first.ready();
  ASSERT_GT(worker, 0);
  first.hang_up();
  EXPECT_EQ(first.child->wait(), kAttachEnded);
  Session second = attach();
  ASSERT_EQ(second.ready(), worker);
  Child bystander({"/bin/sleep", "1000"});
  std::ofstream(run_folder() + "/pid") << bystander.pid() << "\n";
  ASSERT_EQ(kill(worker, SIGSTOP), 0);
  second.say("end 0\n");
  EXPECT_EQ(second.child->wait(), kAttachEnded);
  EXPECT_TRUE(is_gone(worker)) << second.child->error_output();
  EXPECT_FALSE(bystander.wait(std::chrono::milliseconds(0)).has_value()) << "it lives";
  kill(worker, SIGKILL);
}

TEST_F(Attach, EndsAnOrphanAfterItsGrace) {
  Session session = attach({{"orphan_grace", 0}});
  const int worker = session.ready();
  session.hang_up();
  EXPECT_TRUE(is_gone(worker));
  EXPECT_NE(read(run_folder() + "/log").find("no broker came back"), std::string::npos);
}

TEST_F(Attach, SaysHowTheWorkerDied) {
  Session session = attach();
  const int worker = session.ready();
  ASSERT_GT(worker, 0);
  ASSERT_EQ(kill(worker, SIGKILL), 0);
  EXPECT_EQ(session.child->wait(), kAttachLostWorker);
  EXPECT_NE(session.child->error_output().find("killed by signal 9"), std::string::npos)
      << session.child->error_output();
}

TEST_F(Attach, SaysWhyNoWorkerCanStart) {
  Session python = attach({{"python", "/nowhere/python3"}});
  EXPECT_EQ(python.child->wait(), kAttachUnusable);
  EXPECT_NE(python.child->error_output().find("/nowhere/python3"), std::string::npos);
  Session directory = attach({{"directory", "/nowhere"}});
  EXPECT_EQ(directory.child->wait(), kAttachUnusable);
  EXPECT_NE(directory.child->error_output().find("the working directory /nowhere"),
            std::string::npos);
  Session version = attach({{"version", "0.0.1"}});
  EXPECT_EQ(version.child->wait(), kAttachUnusable);
  EXPECT_NE(version.child->error_output().find("the broker is 0.0.1"), std::string::npos);
}

TEST_F(Attach, SaysWhatIsMissing) {
  Session session = attach(
      {{"includes", {"1234"}}, {"plugins", {"90ab/libtasks.so"}}, {"python_environment", "5678"}});
  EXPECT_EQ(session.child->wait(), kAttachMissing);
  EXPECT_EQ(session.child->output(),
            "missing include 1234\nmissing plugin 90ab/libtasks.so\nmissing environment 5678\n");
}

TEST_F(Attach, GoesWithoutAPythonThatIsNotThere) {
  const std::string folder = folder_.path("cache/muster/environments/5678");
  std::filesystem::create_directories(folder);
  std::ofstream(folder + "/ready") << "none\n\ninstall python3.11\n";
  Session session = attach({{"python_environment", "5678"}});
  EXPECT_GT(session.ready(), 0) << session.child->error_output();
  EXPECT_EQ(session.child->output().find("lacks install python3.11\nready "), 0U)
      << session.child->output();
  // Somebody may have installed it since.
  std::filesystem::last_write_time(
      folder + "/ready", std::filesystem::file_time_type::clock::now() - std::chrono::minutes(2));
  Session later = attach({{"python_environment", "5678"}});
  EXPECT_EQ(later.child->wait(), kAttachMissing);
}

TEST_F(Attach, RefusesWhatIsNoConfiguration) {
  for (const char* line : {"", "[]", "{", "{\"pool\": \"../up\"}", "{\"pool\": 1}"}) {
    Session session = attach_line(line);
    EXPECT_EQ(session.child->wait(), kAttachUnusable) << line;
    EXPECT_NE(session.child->error_output().find("muster: "), std::string::npos);
  }
  for (const char* plugin : {"", "libtasks.so", "90ab/../libtasks.so", "../libtasks.so"}) {
    Session session = attach({{"plugins", {plugin}}});
    EXPECT_EQ(session.child->wait(), kAttachUnusable) << plugin;
    EXPECT_NE(session.child->error_output().find("\"plugins\""), std::string::npos);
  }
  Session session = attach({{"slots", kSecret}});
  EXPECT_EQ(session.child->wait(), kAttachUnusable);
  EXPECT_NE(session.child->error_output().find("\"slots\""), std::string::npos);
  EXPECT_EQ(session.child->error_output().find(kSecret), std::string::npos);
}

}  // namespace
}  // namespace muster
