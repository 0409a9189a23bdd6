#include "worker/process_executor.hpp"

#include <errno.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <unordered_set>
#include <utility>

#include "worker/clock.hpp"

namespace muster {
namespace {

// A runner that dies of itself: first and longest pause, and when to give up on tasks.
constexpr Duration kFirstPause = std::chrono::milliseconds(50);
constexpr std::uint32_t kMostDoublings = 6;
constexpr std::uint32_t kFailedStarts = 3;

constexpr std::size_t kTailBytes = std::size_t{8} << 10;
constexpr int kEventsPerPoll = 64;

}  // namespace

std::string runner_beside_daemon() {
  std::array<char, 4096> path{};
  const ssize_t size = ::readlink("/proc/self/exe", path.data(), path.size() - 1);
  const std::string own(path.data(), size > 0 ? static_cast<std::size_t>(size) : 0);
  return own.substr(0, own.rfind('/') + 1) + "muster-runner";
}

ProcessExecutor::ProcessExecutor(ProcessExecutorOptions options)
    : options_(std::move(options)),
      epoll_(::epoll_create1(EPOLL_CLOEXEC)),
      null_input_(::open("/dev/null", O_RDONLY | O_CLOEXEC)),
      runners_(options_.slots) {
  for (std::size_t slot = 0; slot < runners_.size(); ++slot) {
    launch(runners_[slot], slot, steady_now());
  }
}

ProcessExecutor::~ProcessExecutor() { shutdown(); }

// --- Runners ------------------------------------------------------------------------------------

void ProcessExecutor::launch(Runner& runner, std::size_t slot, Time now) {
  std::array<int, 2> ends{-1, -1};
  Pipe error_output = make_pipe();
  if (!error_output.read.valid() ||
      ::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()) != 0) {
    fail_start(runner, "the worker has no descriptors left for a runner", now);
    return;
  }
  Descriptor link(ends[0]);
  const Descriptor far_end(ends[1]);
  ::fcntl(link.get(), F_SETFL, O_NONBLOCK);
  SpawnRequest request{
      {options_.runner},        {},           "", null_input_.get(), error_output.write.get(),
      error_output.write.get(), far_end.get()};
  request.argv.insert(request.argv.end(),
                      {"--max-result", std::to_string(options_.max_result_bytes)});
  for (const std::string& plugin : options_.plugins) {
    request.argv.insert(request.argv.end(), {"--plugin", plugin});
  }
  Spawned process = spawn(request);
  if (!process.failure.empty()) {
    fail_start(runner, process.failure, now);
    return;
  }
  const std::uint32_t failed_starts = runner.failed_starts;
  const std::uint32_t idle_deaths = runner.idle_deaths;
  runner = Runner{};
  runner.failed_starts = failed_starts;
  runner.idle_deaths = idle_deaths;
  runner.process = std::move(process);
  runner.link = std::move(link);
  runner.error_output = std::move(error_output.read);
  watch(runner.process.exit_watch.get(), slot, Source::exit);
  watch(runner.link.get(), slot, Source::link);
  watch(runner.error_output.get(), slot, Source::error_output);
}

// Before it is started again, after so many ends that were its own fault.
void ProcessExecutor::pause(Runner& runner, std::uint32_t ends, Time now) {
  runner.start_after = now + kFirstPause * (1 << std::min(ends, kMostDoublings));
}

void ProcessExecutor::fail_start(Runner& runner, const std::string& reason, Time now) {
  pause(runner, runner.failed_starts, now);
  ++runner.failed_starts;
  start_failure_ = fmt::format("a runner process cannot be started: {}", reason);
}

void ProcessExecutor::watch(int descriptor, std::size_t slot, Source source) {
  epoll_event event{EPOLLIN, {}};
  event.data.u64 = slot << 2 | static_cast<std::uint64_t>(source);
  ::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, descriptor, &event);
}

void ProcessExecutor::kill(Runner& runner, OutcomeStatus status) {
  if (runner.process.pid < 0 || runner.ending != OutcomeStatus::result) return;
  runner.ending = status;
  ::kill(-runner.process.pid, SIGKILL);
}

// The runner's process ended: its last outcomes, the task it ended in, and the rest of its chunk.
void ProcessExecutor::finish_exit(Runner& runner, Time now) {
  read_link(runner, now);
  read_error_output(runner);
  ::kill(-runner.process.pid, SIGKILL);  // what the task left behind
  const ExitStatus status = reap(runner.process);
  const std::string tail = last_lines(runner.error_tail);
  if (!runner.ready) {
    fail_start(runner, fmt::format("it {}{}{}", describe(status), tail.empty() ? "" : ": ", tail),
               now);
  } else if (!runner.tasks.empty()) {
    const TaskStart task = std::move(runner.tasks.front());
    runner.tasks.pop_front();
    const Duration busy = now - runner.task_started;
    if (runner.ending == OutcomeStatus::timed_out) {
      report(task.lease, OutcomeStatus::timed_out,
             {"timed_out",
              fmt::format("ran longer than its timeout of {} ms and was killed",
                          task.spec->timeout.count()),
              tail,
              {}},
             busy);
    } else if (runner.ending == OutcomeStatus::cancelled) {
      report(task.lease, OutcomeStatus::cancelled,
             {"cancelled", "cancelled while it ran", tail, {}}, busy);
    } else {
      report(task.lease, OutcomeStatus::error,
             {"crashed",
              fmt::format("the process that ran {} ended: {}", task.spec->function.name,
                          describe(status)),
              tail,
              {}},
             busy);
    }
  } else if (runner.ending == OutcomeStatus::result) {
    if (runner.idle_deaths > 0) pause(runner, runner.idle_deaths - 1, now);  // a first one is free
    ++runner.idle_deaths;
  }
  requeue(runner.returned);
  requeue(runner.tasks);
  const Runner ended = std::exchange(runner, Runner{});
  runner.failed_starts = ended.failed_starts;
  runner.idle_deaths = ended.idle_deaths;
  runner.start_after = ended.start_after;
}

// Tasks that a runner had and did not start: to the head of the queue, unless unwanted meanwhile.
void ProcessExecutor::requeue(std::deque<TaskStart>& tasks) {
  for (; !tasks.empty(); tasks.pop_back()) {
    TaskStart& task = tasks.back();
    if (stopped_.erase(task.lease) > 0) {
      recalled_.erase(task.lease);
      report(task.lease, OutcomeStatus::cancelled,
             {"cancelled", "cancelled before it started", "", {}}, Duration::zero());
    } else if (recalled_.erase(task.lease) > 0) {
      results_.handed_back.push_back(task.lease);
    } else {
      queue_.push_front(std::move(task));
    }
  }
}

void ProcessExecutor::report(const Lease& lease, OutcomeStatus status, Failure failure,
                             Duration busy) {
  stopped_.erase(lease);
  recalled_.erase(lease);
  results_.finished.push_back({lease, failed(status, std::move(failure)), busy});
}

void ProcessExecutor::read_error_output(Runner& runner) {
  std::array<char, kTailBytes> buffer;
  while (runner.error_output.valid()) {
    const ssize_t size = ::read(runner.error_output.get(), buffer.data(), buffer.size());
    if (size < 0 && errno == EINTR) continue;
    if (size < 0 && errno == EAGAIN) return;
    if (size <= 0) {
      runner.error_output.reset();
      return;
    }
    const auto got = static_cast<std::size_t>(size);
    [[maybe_unused]] const ssize_t forwarded = ::write(STDERR_FILENO, buffer.data(), got);
    runner.error_tail.append(buffer.data(), got);
    if (runner.error_tail.size() > kTailBytes) {
      runner.error_tail.erase(0, runner.error_tail.size() - kTailBytes);
    }
  }
}

void ProcessExecutor::shutdown() {
  queue_.clear();
  for (Runner& runner : runners_) {
    if (runner.process.pid >= 0) ::kill(-runner.process.pid, SIGKILL);
  }
  for (Runner& runner : runners_) {
    if (runner.process.pid >= 0) reap(runner.process);
    runner = Runner{};
    runner.start_after = kNever;
  }
}

// --- Calls --------------------------------------------------------------------------------------

void ProcessExecutor::start(std::vector<TaskStart>&& tasks) {
  for (TaskStart& task : tasks) queue_.push_back(std::move(task));
  tasks.clear();
  give_chunks(steady_now());
}

void ProcessExecutor::stop(const std::vector<Lease>& leases) {
  const std::unordered_set<Lease> named(leases.begin(), leases.end());
  std::erase_if(queue_, [&](const TaskStart& task) {
    if (named.count(task.lease) == 0) return false;
    report(task.lease, OutcomeStatus::cancelled,
           {"cancelled", "cancelled before it started", "", {}}, Duration::zero());
    return true;
  });
  for (std::size_t slot = 0; slot < runners_.size(); ++slot) {
    Runner& runner = runners_[slot];
    for (std::size_t i = 0; i < runner.tasks.size(); ++i) {
      if (named.count(runner.tasks[i].lease) == 0) continue;
      stopped_.insert(runner.tasks[i].lease);
      if (i == 0) kill(runner, OutcomeStatus::cancelled);
      if (i > 0) take_back(runner, slot);
    }
  }
}

void ProcessExecutor::recall(const std::vector<Lease>& leases) {
  const std::unordered_set<Lease> named(leases.begin(), leases.end());
  std::erase_if(queue_, [&](const TaskStart& task) {
    if (named.count(task.lease) == 0) return false;
    results_.handed_back.push_back(task.lease);
    return true;
  });
  for (std::size_t slot = 0; slot < runners_.size(); ++slot) {
    Runner& runner = runners_[slot];
    for (std::size_t i = 1; i < runner.tasks.size(); ++i) {
      if (named.count(runner.tasks[i].lease) == 0) continue;
      recalled_.insert(runner.tasks[i].lease);
      take_back(runner, slot);
    }
  }
}

Executor::Results ProcessExecutor::poll(Time now) {
  std::array<epoll_event, kEventsPerPoll> events;
  int count = kEventsPerPoll;
  while (count == kEventsPerPoll) {
    count = ::epoll_wait(epoll_.get(), events.data(), kEventsPerPoll, 0);
    for (int i = 0; i < count; ++i) take_event(events[static_cast<std::size_t>(i)].data.u64, now);
  }
  bool hope = false;
  for (std::size_t slot = 0; slot < runners_.size(); ++slot) {
    Runner& runner = runners_[slot];
    if (runner.process.pid < 0 && now >= runner.start_after) launch(runner, slot, now);
    if (runner.process.pid < 0)
      results_.next_poll = std::min(results_.next_poll, runner.start_after);
    hope = hope || runner.ready || runner.failed_starts < kFailedStarts;
  }
  for (; !hope && !queue_.empty(); queue_.pop_front()) {
    report(queue_.front().lease, OutcomeStatus::error, {"start_failed", start_failure_, "", {}},
           Duration::zero());
  }
  give_chunks(now);
  for (std::size_t slot = 0; slot < runners_.size(); ++slot) {
    check_deadline(runners_[slot], slot, now);
  }
  return std::exchange(results_, {});
}

void ProcessExecutor::take_event(std::uint64_t tag, Time now) {
  const std::size_t slot = tag >> 2;
  Runner& runner = runners_[slot];
  if (runner.process.pid < 0) return;  // it ended by an earlier event of this turn
  switch (static_cast<Source>(tag & 3)) {
    case Source::exit:
      finish_exit(runner, now);
      return;
    case Source::link:
      read_link(runner, now);
      flush(runner, slot);
      return;
    case Source::error_output:
      read_error_output(runner);
      return;
  }
}

void ProcessExecutor::check_deadline(Runner& runner, std::size_t slot, Time now) {
  if (runner.tasks.empty() || runner.ending != OutcomeStatus::result) return;
  const auto timeout = runner.tasks.front().spec->timeout;
  if (timeout.count() > 0) {
    const Time deadline = runner.task_started + timeout;
    if (now >= deadline) {
      kill(runner, OutcomeStatus::timed_out);
      return;
    }
    results_.next_poll = std::min(results_.next_poll, deadline);
  }
  if (runner.tasks.size() > 1 && !runner.taking_back) {
    const Time look = runner.task_started + kSlowTask;
    if (now >= look) take_back(runner, slot);
    results_.next_poll = std::min(results_.next_poll, std::max(look, now + kSlowTask));
  }
}

}  // namespace muster
