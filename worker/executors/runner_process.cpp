#include "worker/executors/runner_process.hpp"

#include <errno.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <spdlog/spdlog.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>

#include "worker/system/machine.hpp"

namespace muster {
namespace {

// A runner that dies of itself: first and longest pause.
constexpr Duration kFirstPause = std::chrono::milliseconds(50);
constexpr std::uint32_t kMostDoublings = 6;
// Without descriptors or processes for it: how often it is tried, and for how long it is hoped.
constexpr Duration kRetryPause = std::chrono::milliseconds(100);
constexpr Duration kRoomPatience = std::chrono::seconds(60);

constexpr std::size_t kTailBytes = std::size_t{8} << 10;
// At once: what a pipe holds. All that was printed before a message of the link is in there.
constexpr std::size_t kPipeBytes = std::size_t{64} << 10;
// How long a line waits for others, or for its task's outcome.
constexpr Duration kGatherLines = std::chrono::milliseconds(50);

}  // namespace

RunnerProcess::RunnerProcess(const RunnerCommand& command, WatchSet& watches, std::uint32_t slot)
    : command_(command), watches_(watches), slot_(slot) {}

RunnerProcess::~RunnerProcess() {
  leave_stores();
  if (running()) kill_group(life_.process);
}

// --- Life ---------------------------------------------------------------------------------------

void RunnerProcess::launch(Time now) {
  std::array<int, 2> ends{-1, -1};
  const Descriptor no_input(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  Pipe output = make_pipe();
  Pipe error_output = make_pipe();
  if (!no_input || !output.read || !error_output.read ||
      ::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()) != 0) {
    fail_for_room("the worker has no descriptors left for a runner", now);
    return;
  }
  Descriptor link(ends[0]);
  const Descriptor far_end(ends[1]);
  ::fcntl(link.get(), F_SETFL, O_NONBLOCK);
  auto environment = command_.environment;
  if (devices_) environment.emplace_back("CUDA_VISIBLE_DEVICES", *devices_);
  Spawned process = spawn({command_.argv, std::move(environment), "", no_input.get(),
                           output.write.get(), error_output.write.get(), far_end.get()});
  if (process.exhausted) {
    fail_for_room(process.failure, now);
    return;
  }
  if (!process.failure.empty()) {
    fail_start(process.failure, now);
    return;
  }
  raise_oom_score(process.pid);
  life_ = Life{};
  life_.process = process.pid;
  life_.exit = Watched(std::move(process.exit_watch));
  life_.link = Watched(std::move(link));
  life_.output.pipe = Watched(std::move(output.read));
  life_.error_output.pipe = Watched(std::move(error_output.read));
  if (!watch(life_.exit, Source::exit) || !watch(life_.link, Source::link) ||
      !watch(life_.output.pipe, Source::output) ||
      !watch(life_.error_output.pipe, Source::error_output)) {
    kill_group(life_.process);
    life_ = Life{};
    fail_for_room("the kernel watches no more descriptors for this user", now);
    return;
  }
  without_room_ = kNever;
  join_stores();
}

bool RunnerProcess::watch(Watched& watched, Source source) {
  return watches_.watch(watched, {slot_, static_cast<std::uint32_t>(source)});
}

// Before it is started again, after so many ends that were its own fault.
void RunnerProcess::pause(std::uint32_t ends, Time now) {
  start_after_ = now + kFirstPause * (1 << std::min(ends, kMostDoublings));
}

void RunnerProcess::fail_start(const std::string& reason, Time now) {
  pause(failed_starts_, now);
  ++failed_starts_;
  start_failure_ = fmt::format("a runner process cannot be started: {}", reason);
}

// Others may give back what it needs at any moment: tasks wait for it, but not for ever.
void RunnerProcess::fail_for_room(const std::string& reason, Time now) {
  if (without_room_ == kNever) {
    without_room_ = now;
    spdlog::warn("a runner process waits to be started: {}", reason);
  }
  if (now - without_room_ >= kRoomPatience) {
    fail_start(reason, now);
  } else {
    start_after_ = now + kRetryPause;
  }
}

void RunnerProcess::kill() {
  if (!running() || life_.killed) return;
  life_.killed = true;
  ::kill(-life_.process, SIGKILL);
}

RunnerProcess::End RunnerProcess::take_end(bool idle, Time now) {
  ::kill(-life_.process, SIGKILL);  // what the task left behind
  End end{reap(life_.process).value_or(ExitStatus{-1, 0}), last_lines(life_.tail)};
  if (!life_.ready) {
    const char* colon = end.last_lines.empty() ? "" : ": ";
    fail_start(fmt::format("it {}{}{}", describe(end.status), colon, end.last_lines), now);
  } else if (idle && !life_.killed) {
    if (idle_deaths_ > 0) pause(idle_deaths_ - 1, now);  // a first one is free
    ++idle_deaths_;
  }
  leave_stores();
  life_ = Life{};
  return end;
}

// --- Link ---------------------------------------------------------------------------------------

void RunnerProcess::hand(const TaskStart& task) {
  if (task.spec.get() != life_.last_spec) declare(task);
  message::Tasks& batch = life_.batch;
  const Lease& lease = task.lease;
  if (batch.session != lease.session || batch.job != lease.job) {
    pack_batch();
    batch.session = lease.session;
    batch.job = lease.job;
  }
  if (batch.runs.empty() || batch.runs.back().attempt != lease.attempt ||
      batch.runs.back().first + batch.runs.back().payloads.size() != lease.sequence) {
    batch.runs.push_back({lease.sequence, lease.attempt, {}});
  }
  batch.runs.back().payloads.push_back(task.payload);
}

void RunnerProcess::declare(const TaskStart& task) {
  pack_batch();
  life_.last_spec = task.spec.get();
  std::shared_ptr<const JobSpec>& known = life_.jobs[task.lease.job_name()];
  if (known == task.spec) return;
  known = task.spec;
  append_message(life_.unsent, message::WorkerJob{task.lease.session, task.lease.job, *task.spec});
}

void RunnerProcess::pack_batch() {
  if (!life_.batch.runs.empty()) append_message(life_.unsent, std::exchange(life_.batch, {}));
}

void RunnerProcess::send(const Message& message) {
  pack_batch();
  append_message(life_.unsent, message);
}

void RunnerProcess::forget(const JobName& job) {
  const auto found = life_.jobs.find(job);
  if (found == life_.jobs.end()) return;
  if (found->second.get() == life_.last_spec) life_.last_spec = nullptr;
  life_.jobs.erase(found);
  send(message::ForgetJob{job.session, job.job});
  flush();
}

void RunnerProcess::flush() {
  pack_batch();
  std::size_t sent = 0;
  while (sent < life_.unsent.size() && life_.link) {
    const ssize_t written = ::send(life_.link.get(), life_.unsent.data() + sent,
                                   life_.unsent.size() - sent, MSG_NOSIGNAL);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) break;  // full, or the runner is gone: its exit says so
    sent += static_cast<std::size_t>(written);
  }
  life_.unsent.erase(0, sent);
  const bool wanted = !life_.unsent.empty();
  if (wanted == life_.wants_write || !life_.link) return;
  life_.wants_write = wanted;
  life_.link.wait_for(EPOLLIN | (wanted ? EPOLLOUT : 0U));
}

bool RunnerProcess::next(Message& message) {
  while (life_.link) {
    switch (life_.reader.next(message)) {
      case MessageReader::Status::message:
        if (std::holds_alternative<message::Heartbeat>(message)) {
          life_.ready = true;
          failed_starts_ = 0;
          continue;
        }
        idle_deaths_ = 0;
        if (auto* asked = std::get_if<message::StoreRequest>(&message)) {
          if (command_.stores != nullptr) {
            command_.stores->ask(life_.store_runner, std::move(*asked));
          }
          continue;
        }
        return true;
      case MessageReader::Status::broken:
        close_link();
        return false;
      case MessageReader::Status::incomplete:
        break;
    }
    if (std::exchange(life_.read_all, false)) return false;
    std::size_t size_bytes = 0;
    char* space = life_.reader.space(size_bytes);
    const ssize_t got = ::read(life_.link.get(), space, size_bytes);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 && errno == EAGAIN) return false;
    if (got <= 0) {
      close_link();
      return false;
    }
    life_.reader.filled(static_cast<std::size_t>(got));
    life_.read_all = static_cast<std::size_t>(got) < size_bytes;
  }
  return false;
}

void RunnerProcess::join_stores() {
  if (command_.stores == nullptr) return;
  life_.store_runner = command_.stores->join([this](message::StoreAnswer&& answer) {
    send(std::move(answer));
    flush();
  });
}

void RunnerProcess::leave_stores() {
  if (command_.stores != nullptr) command_.stores->leave(life_.store_runner);
}

// Task code closed or garbled the link, or the process is ending: make sure that it does.
void RunnerProcess::close_link() {
  life_.link.reset();
  if (running()) ::kill(-life_.process, SIGKILL);
}

// --- Output -------------------------------------------------------------------------------------

void RunnerProcess::read_output(const TaskStart* speaker, Time now) {
  read_stream(life_.output, speaker, now);
  read_stream(life_.error_output, speaker, now);
}

void RunnerProcess::end_output(const TaskStart& speaker, Time now) {
  if (!speaker.spec->forward_output) return;
  read_output(&speaker, now);
  end_line(life_.output, speaker, now);
  end_line(life_.error_output, speaker, now);
  output_due_ = true;
}

void RunnerProcess::clear_tail(Time now) {
  read_output(nullptr, now);
  life_.tail.clear();
}

void RunnerProcess::read_stream(Stream& stream, const TaskStart* speaker, Time now) {
  std::array<char, kTailBytes> buffer;
  std::size_t left = kPipeBytes;
  while (stream.pipe && left > 0) {
    const ssize_t size = ::read(stream.pipe.get(), buffer.data(), std::min(left, buffer.size()));
    if (size < 0 && errno == EINTR) continue;
    if (size < 0 && errno == EAGAIN) return;
    if (size <= 0) {
      stream.pipe.reset();
      return;
    }
    const std::string_view text(buffer.data(), static_cast<std::size_t>(size));
    left -= text.size();
    life_.tail.append(text);
    if (life_.tail.size() > kTailBytes) life_.tail.erase(0, life_.tail.size() - kTailBytes);
    if (speaker != nullptr && speaker->spec->forward_output) {
      split_lines(stream, text, *speaker, now);
    } else {
      [[maybe_unused]] const ssize_t shown = ::write(STDERR_FILENO, text.data(), text.size());
    }
    if (text.size() < buffer.size()) return;
  }
}

void RunnerProcess::split_lines(Stream& stream, std::string_view text, const TaskStart& speaker,
                                Time now) {
  while (!text.empty()) {
    const std::size_t end = text.find('\n');
    const std::string_view part = text.substr(0, end);
    // One byte more than the limit: it is then cut between two characters.
    const std::size_t room = limits::kMaxLineBytes + 1 - stream.line.size();
    stream.line.append(part.substr(0, room));
    if (end == std::string_view::npos) return;
    text.remove_prefix(end + 1);
    if (stream.line.empty()) stream.line.push_back('\n');
    end_line(stream, speaker, now);
  }
}

void RunnerProcess::end_line(Stream& stream, const TaskStart& speaker, Time now) {
  if (stream.line.empty()) return;
  if (stream.line.back() == '\r' || stream.line.back() == '\n') stream.line.pop_back();
  const Lease& lease = speaker.lease;
  gate_.add(lease.session, lease.job,
            {lease.sequence, stream.kind, 0, {}, std::exchange(stream.line, {})}, now);
}

void RunnerProcess::take_output(Executor::Results& results, Time now) {
  if (gate_.empty()) {
    output_due_ = false;
    return;
  }
  const Time due = gate_.since() + kGatherLines;
  if (!output_due_ && !gate_.full() && now < due) {
    results.next_poll = std::min(results.next_poll, due);
    return;
  }
  output_due_ = false;
  for (message::WorkerOutput& output : gate_.take()) results.outputs.push_back(std::move(output));
}

Failure crash_failure(const TaskStart& task, const RunnerProcess::End& end, std::size_t sharers) {
  const std::string& name = task.spec->function.name;
  std::string message = fmt::format("the process that ran {} ended: {}",
                                    name.empty() ? "this task" : name, describe(end.status));
  if (end.status.signal == SIGKILL) {
    message += "; the kernel does that when memory runs out, the worker when a task closes fd 3";
  }
  if (end.status.signal == 0 && end.status.status == 0) {
    message += "; a task called os._exit or closed fd 3";
  }
  if (sharers > 1) {
    message += fmt::format(
        "; {} tasks shared the process (executor thread), and any of them may "
        "have caused it",
        sharers);
  }
  return {"crashed", std::move(message), end.last_lines, {}};
}

}  // namespace muster
