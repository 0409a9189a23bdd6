// The runner's end of the link, with the daemon's words said by the test.
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <muster/runner.hpp>
#include <mutex>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "common/system/descriptor.hpp"
#include "common/time.hpp"
#include "tests/support/child.hpp"
#include "worker/runner/frame_link.hpp"

namespace muster {
namespace {

constexpr SessionId kSession{1, 2};
constexpr JobId kJob{1};

std::array<int, 2> socket_pair() {
  std::array<int, 2> ends{-1, -1};
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()) != 0) ends = {-1, -1};
  return ends;
}

// The daemon's side of one link.
class Env {
 public:
  explicit Env(std::uint64_t max_result_bytes = 1 << 20) : Env(socket_pair(), max_result_bytes) {}
  // The link first: it would end the process when its daemon is gone.
  ~Env() { link.reset(); }
  Env(const Env&) = delete;
  Env& operator=(const Env&) = delete;

  void say(const Message& message) {
    std::string bytes;
    append_message(bytes, message);
    ASSERT_EQ(::write(daemon.get(), bytes.data(), bytes.size()),
              static_cast<ssize_t>(bytes.size()));
  }
  void declare(const std::string& body = "body", JobId job = kJob, bool forward = true) {
    JobSpec spec;
    spec.function = {FunctionKind::python, "work", "3.11", {Bytes::copy(body), 0}};
    spec.forward_output = forward;
    say(message::WorkerJob{kSession, job, spec});
  }
  void lease(std::uint64_t first, std::uint64_t count, JobId job = kJob) {
    message::Tasks tasks{kSession, job, {{TaskSequence{first}, Attempt{4}, {}}}};
    for (std::uint64_t i = 0; i < count; ++i) {
      tasks.runs[0].payloads.push_back({Bytes::copy("argument"), 0});
    }
    say(tasks);
  }
  static std::vector<LeaseRange> range(std::uint64_t first, std::uint64_t count) {
    return {{TaskSequence{first}, count, Attempt{4}}};
  }

  // The next message of this kind, which must be the next of all.
  template <typename Kind>
  Kind expect() {
    Message message;
    const auto found = [&] {
      while (reader.next(message) != MessageReader::Status::message) {
        pollfd event{daemon.get(), POLLIN, 0};
        if (::poll(&event, 1, 0) <= 0) return false;
        std::size_t size_bytes = 0;
        char* space = reader.space(size_bytes);
        const ssize_t got = ::read(daemon.get(), space, size_bytes);
        if (got <= 0) return false;
        reader.filled(static_cast<std::size_t>(got));
      }
      return true;
    };
    EXPECT_TRUE(testing::wait_until(found, std::chrono::seconds(20))) << "no message came";
    EXPECT_TRUE(std::holds_alternative<Kind>(message)) << "got " << name_of(message);
    return std::holds_alternative<Kind>(message) ? std::get<Kind>(message) : Kind{};
  }
  Outcome outcome(std::uint64_t sequence) {
    const auto report = expect<message::WorkerOutcomes>();
    if (report.runs.size() != 1 || report.runs[0].outcomes.size() != 1) return {};
    EXPECT_EQ(report.runs[0].first, TaskSequence{sequence});
    EXPECT_EQ(report.runs[0].attempt, Attempt{4});
    EXPECT_GT(report.busy, Duration::zero());
    return report.runs[0].outcomes[0];
  }
  bool was_stopped(std::uint64_t id) {
    return testing::wait_until([&] {
      const std::lock_guard lock(mutex);
      return stopped.count(id) > 0;
    });
  }

  muster::Descriptor daemon;
  MessageReader reader;
  std::mutex mutex;
  std::set<std::uint64_t> stopped;
  std::unique_ptr<RunnerLink> link;

 private:
  Env(std::array<int, 2> ends, std::uint64_t max_result_bytes) : daemon(ends[0]) {
    const auto stop = [this](std::uint64_t id) {
      const std::lock_guard lock(mutex);
      stopped.insert(id);
    };
    link = std::make_unique<RunnerLink>(ends[1], RunnerLink::Options{stop, max_result_bytes});
  }
};

TEST(RunnerLink, TakesTasksAndGivesTheirOutcomes) {
  Env env;
  env.link->ready();
  env.expect<message::Heartbeat>();
  env.declare("the callable");
  env.lease(7, 2);
  const RunnerTask task = env.link->next();
  EXPECT_EQ(task.job->name, "work");
  EXPECT_EQ(task.job->body.text(), "the callable");
  EXPECT_EQ(task.sequence, 7U);
  EXPECT_EQ(task.attempt, 4U);
  EXPECT_EQ(task.payload.text(), "argument");
  env.link->finish(task.id, Bytes::copy("result"));
  EXPECT_EQ(env.outcome(7).body.bytes.text(), "result");
  const RunnerTask second = env.link->next();
  EXPECT_NE(second.id, task.id);
  EXPECT_EQ(second.job, task.job);
  env.link->fail(second.id, "exception", "no", "Traceback", Bytes::copy("extra"));
  env.link->finish(second.id, Bytes::copy("too late"));
  env.link->finish(task.id, Bytes::copy("twice"));
  const Failure failure = decode_failure(env.outcome(8).body.bytes);
  EXPECT_EQ(failure, (Failure{"exception", "no", "Traceback", Bytes::copy("extra")}));
  env.link->ready();
  env.expect<message::Heartbeat>();  // nothing else was sent
}

TEST(RunnerLink, GivesTasksToSeveralThreads) {
  Env env;
  env.declare();
  constexpr std::size_t kThreads = 4;
  std::mutex mutex;
  std::set<std::uint64_t> seen;
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < kThreads; ++i) {
    threads.emplace_back([&] {
      const RunnerTask task = env.link->next();
      {
        const std::lock_guard lock(mutex);
        seen.insert(task.sequence);
      }
      // All at once: nobody goes on before everybody has one.
      EXPECT_TRUE(testing::wait_until([&] {
        const std::lock_guard lock(mutex);
        return seen.size() == kThreads;
      }));
      env.link->finish(task.id, Bytes::copy(std::string(100'000, 'x')));
    });
  }
  env.lease(0, kThreads);
  for (std::size_t i = 0; i < kThreads; ++i) {
    const auto report = env.expect<message::WorkerOutcomes>();
    EXPECT_EQ(report.runs.at(0).outcomes.at(0).body.bytes.size(), 100'000U);
  }
  for (std::thread& thread : threads) thread.join();
}

TEST(RunnerLink, ReturnsWhatHasNotStarted) {
  Env env;
  env.declare();
  env.lease(0, 3);
  const RunnerTask task = env.link->next();
  env.say(message::Recall{kSession, kJob, {}});
  EXPECT_EQ(env.expect<message::Returned>().leases, Env::range(1, 1));
  EXPECT_EQ(env.expect<message::Returned>().leases, Env::range(2, 1));
  EXPECT_TRUE(env.expect<message::Returned>().leases.empty());
  env.link->finish(task.id, {});
  EXPECT_EQ(env.outcome(0).status, OutcomeStatus::result);
}

TEST(RunnerLink, TellsOfTasksThatAreToStop) {
  Env env;
  env.declare();
  env.lease(0, 2);
  const RunnerTask task = env.link->next();
  env.say(message::StopTasks{kSession, kJob, Env::range(0, 5)});
  EXPECT_EQ(env.expect<message::WorkerOutcomes>().runs.at(0).outcomes.at(0).status,
            OutcomeStatus::cancelled);  // the one that had not started
  EXPECT_TRUE(env.was_stopped(task.id));
  env.link->finish(task.id, {});
  env.outcome(0);
}

TEST(RunnerLink, NamesForgottenJobsWhenNoTaskOfThemWaits) {
  Env env;
  env.declare("first", JobId{1});
  env.declare("second", JobId{2});
  env.lease(0, 1, JobId{1});
  env.lease(0, 1, JobId{2});
  const std::uint64_t first = env.link->next().job->key;
  env.say(message::ForgetJob{kSession, JobId{1}});
  env.declare("another", JobId{2});  // takes the number of one that waits
  env.lease(1, 1, JobId{2});
  std::vector<std::uint64_t> forgotten;
  EXPECT_TRUE(testing::wait_until([&] {
    for (const std::uint64_t key : env.link->forgotten()) forgotten.push_back(key);
    return !forgotten.empty();
  }));
  EXPECT_EQ(forgotten, std::vector<std::uint64_t>{first});
  const RunnerTask second = env.link->next();
  EXPECT_EQ(second.job->body.text(), "second");
  const RunnerTask another = env.link->next();
  EXPECT_EQ(another.job->body.text(), "another");
  EXPECT_EQ(env.link->forgotten(), std::vector<std::uint64_t>{second.job->key});
}

TEST(RunnerLink, SendsLinesBeforeTheOutcomeOrSoonAfterTheyWereSaid) {
  Env env;
  env.declare();
  env.lease(3, 1);
  const RunnerTask task = env.link->next();
  env.link->say(task.id, 3, 0, "UserWarning", "careful");
  env.link->say(task.id, 9, 0, "", "no such kind");
  const auto soon = env.expect<message::WorkerOutput>();
  ASSERT_EQ(soon.lines.size(), 1U);
  EXPECT_EQ(soon.lines[0].kind, OutputKind::warning);
  EXPECT_EQ(soon.lines[0].name, "UserWarning");
  EXPECT_EQ(soon.lines[0].sequence, TaskSequence{3});
  env.link->say(task.id, 2, 20, "root", "the end");
  env.link->finish(task.id, {});
  EXPECT_EQ(env.expect<message::WorkerOutput>().lines.at(0).text, "the end");
  env.outcome(3);
  env.link->say(task.id, 0, 0, "", "after its end");
  env.link->ready();
  env.expect<message::Heartbeat>();
}

TEST(RunnerLink, LeavesOutLinesOfJobsThatForwardNone) {
  Env env;
  env.declare("body", kJob, false);
  env.lease(0, 1);
  const RunnerTask task = env.link->next();
  env.link->say(task.id, 0, 0, "", "to nobody");
  env.link->finish(task.id, {});
  env.outcome(0);
}

TEST(RunnerLink, RefusesResultsOverItsLimitAndWhatIsNoSocket) {
  Env env(10);
  env.declare();
  env.lease(0, 1);
  env.link->finish(env.link->next().id, Bytes::copy("eleven bytes"));
  EXPECT_EQ(decode_failure(env.outcome(0).body.bytes).kind, "result_too_large");
  const muster::Descriptor event(::eventfd(0, EFD_CLOEXEC));
  EXPECT_THROW(RunnerLink(event.get(), {}), std::runtime_error);
  EXPECT_THROW(RunnerLink(-1, {}), std::runtime_error);
}

TEST(RunnerLink, IsTheParentsAloneAfterAFork) {
  Env env;
  env.declare();
  env.lease(0, 1);
  const RunnerTask task = env.link->next();
  const pid_t child = ::fork();
  if (child == 0) {
    env.link->abandon();
    env.link->say(task.id, 0, 0, "", "from the child");
    env.link->finish(task.id, {});
    env.link->ready();
    ::_exit(7);
  }
  int status = 0;
  EXPECT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(WEXITSTATUS(status), 7);
  env.link->finish(task.id, Bytes::copy("from the parent"));
  EXPECT_EQ(env.outcome(0).body.bytes.text(), "from the parent");
}

TEST(RunnerLink, EndsTheProcessWhenTheDaemonIsGone) {
  const auto lose_the_daemon = [] {
    const std::array<int, 2> ends = socket_pair();
    RunnerLink link(ends[1], {});
    ::close(ends[0]);
    link.next();
  };
  ::testing::FLAGS_gtest_death_test_style = "threadsafe";
  EXPECT_EXIT(lose_the_daemon(), ::testing::ExitedWithCode(0), "");
}

}  // namespace
}  // namespace muster
