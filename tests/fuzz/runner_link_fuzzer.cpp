// Bytes as what a daemon writes to a runner's descriptor 3. However they are cut, they are the same
// messages; and of the messages that a daemon may send, each task that comes to a RunnerLink ends
// in exactly one outcome or goes back, whatever comes with it.
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <muster/runner.hpp>
#include <set>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "common/check.hpp"
#include "common/system/descriptor.hpp"
#include "tests/fuzz/speaker.hpp"
#include "worker/agent/lease.hpp"
#include "worker/runner/frame_link.hpp"

namespace muster {
namespace {

using fuzz::Input;

constexpr std::size_t kMostTasks = 256;  // their outcomes fit into the socket
constexpr JobName kLast{{1, 1}, JobId{77}};

struct Read {
  std::vector<Message> messages;
  bool broken = false;
};

// Reads `bytes` in pieces of the sizes that `input` says.
Read read_all(std::string_view bytes, Input input) {
  Read read;
  MessageReader reader;
  while (!bytes.empty() && !read.broken) {
    std::size_t room = 0;
    char* space = reader.space(room);
    const std::size_t count = std::min({bytes.size(), room, std::size_t{1} + input.byte()});
    std::memcpy(space, bytes.data(), count);
    reader.filled(count);
    bytes.remove_prefix(count);
    Message message;
    MessageReader::Status status = reader.next(message);
    for (; status == MessageReader::Status::message; status = reader.next(message)) {
      read.messages.push_back(message);
    }
    read.broken = status == MessageReader::Status::broken;
  }
  return read;
}

std::string written(const std::vector<Message>& messages) {
  std::string bytes;
  for (const Message& message : messages) append_message(bytes, message);
  return bytes;
}

// A runner behind its link, and the daemon's end of it.
class Runner {
 public:
  Runner() : Runner(socket_pair()) {}

  // What a daemon may send of it; the rest would end the runner.
  void send(const std::vector<Message>& messages) {
    std::vector<Message> sent;
    for (const Message& message : messages) {
      if (may_send(message)) sent.push_back(message);
    }
    sent.emplace_back(message::WorkerJob{kLast.session, kLast.job, {}});
    sent.emplace_back(message::Tasks{kLast.session, kLast.job, {{{}, {}, {Payload{}}}}});
    const std::string bytes = written(sent);
    std::string_view rest = bytes;
    while (!rest.empty()) {
      const ssize_t count = ::send(daemon_.get(), rest.data(), rest.size(), MSG_DONTWAIT);
      if (count <= 0) return;  // more than the socket takes: nothing that a runner has to bear
      rest.remove_prefix(static_cast<std::size_t>(count));
    }
    complete_ = true;
  }
  // Runs all tasks up to the last one, and looks whether each ended once.
  void run(Input& input) {
    if (!complete_) return;
    for (;;) {
      const RunnerTask task = link_.next();
      const bool is_last = task.job->name.empty();
      if (input.flag()) {
        link_.finish(task.id, Bytes::copy("result"));
      } else {
        link_.fail(task.id, "exception", "no", "", {});
      }
      link_.forgotten();
      if (is_last) break;
    }
    std::size_t ended = 0;
    while (ended < expected_ + 1) ended += read_ended();
    CHECK(ended == expected_ + 1);
  }

 private:
  explicit Runner(std::array<int, 2> ends) : daemon_(ends[0]), link_(ends[1], {}) {}

  static std::array<int, 2> socket_pair() {
    std::array<int, 2> ends{-1, -1};
    CHECK(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()) == 0);
    return ends;
  }

  bool may_send(const Message& message) {
    if (const auto* job = std::get_if<message::WorkerJob>(&message)) {
      if (job->spec.function.name.empty()) return false;  // kLast's mark
      jobs_.insert({{job->session, job->job}, true});
      return true;
    }
    if (const auto* forget = std::get_if<message::ForgetJob>(&message)) {
      jobs_.erase({forget->session, forget->job});
      return true;
    }
    if (const auto* tasks = std::get_if<message::Tasks>(&message)) {
      if (jobs_.count({tasks->session, tasks->job}) == 0) return false;
      std::size_t count = 0;
      for (const TaskRun& run : tasks->runs) count += run.payloads.size();
      if (expected_ + count > kMostTasks) return false;
      expected_ += count;
      return true;
    }
    return std::holds_alternative<message::Recall>(message) ||
           std::holds_alternative<message::StopTasks>(message) ||
           std::holds_alternative<message::StoreAnswer>(message);
  }
  // Waits for more, and counts the tasks that it ends.
  std::size_t read_ended() {
    std::size_t room = 0;
    char* space = reader_.space(room);
    const ssize_t count = ::read(daemon_.get(), space, room);
    CHECK(count > 0);
    reader_.filled(static_cast<std::size_t>(count));
    std::size_t ended = 0;
    Message message;
    while (reader_.next(message) == MessageReader::Status::message) {
      if (const auto* outcomes = std::get_if<message::WorkerOutcomes>(&message)) {
        for (const OutcomeRun& run : outcomes->runs) ended += run.outcomes.size();
      } else if (const auto* returned = std::get_if<message::Returned>(&message)) {
        for (const LeaseRange& range : returned->leases) ended += range.count;
      }
    }
    return ended;
  }

  Descriptor daemon_;
  RunnerLink link_;  // before the daemon's end: it would end the process when that is gone
  MessageReader reader_;
  std::unordered_map<JobName, bool> jobs_;
  std::size_t expected_ = 0;
  bool complete_ = false;
};

void run(const std::uint8_t* data, std::size_t size) {
  fuzz::Input input(data, size);
  const std::size_t pieces = input.byte();
  const std::string_view cuts = input.take(pieces);
  const std::string_view bytes = input.take(size);
  const Read read = read_all(bytes, Input(nullptr, 0));  // byte by byte
  const auto* sizes = reinterpret_cast<const std::uint8_t*>(cuts.data());
  const Read again = read_all(bytes, Input(sizes, cuts.size()));
  CHECK(read.broken == again.broken);
  CHECK(written(read.messages) == written(again.messages));
  Runner runner;
  runner.send(read.messages);
  Input ends(sizes, cuts.size());
  runner.run(ends);
}

}  // namespace
}  // namespace muster

// The link ends its process when the daemon breaks the rules or is gone, and this one never does.
extern "C" void _exit(int /*status*/) { ::abort(); }

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  muster::run(data, std::min(size, std::size_t{4096}));
  return 0;
}
