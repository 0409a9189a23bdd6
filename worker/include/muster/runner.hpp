// The runner's end of the link to its worker daemon, for runners in any language. It takes tasks
// from a descriptor, and gives back their outcomes and their output. `muster-runner` and the Python
// runner are built on it.
//
//   muster::RunnerLink link(3, {});
//   link.ready();
//   while (true) {
//     muster::RunnerTask task = link.next();
//     link.finish(task.id, run(task));
//   }
//
// Owner: main() of the runner; lives as long as the process (its destructor waits for an on_stop
// that runs). Threads: any, at once. A thread that waits in next() reads the link itself, which
// saves a wake-up per task. While all of them run tasks, a thread of the link's own reads; it takes
// no signals. Blocking: next(), and the others while the daemon does not read. When the daemon is
// gone the process ends at once, whatever it does, with status 0.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <muster/blob.hpp>
#include <muster/bytes.hpp>
#include <muster/store.hpp>
#include <span>
#include <string>
#include <vector>

namespace muster {

// What the tasks of a job share.
struct RunnerJob {
  std::uint64_t key = 0;         // unique in this process; never used again after forgotten()
  std::string name;              // native: the function's name; python: a label
  Bytes body;                    // python: the pickled callable
  std::vector<Blob> blobs = {};  // that belong to the body, in order
  // Results must not name blobs: the producer could not read them. A large body is fine.
  bool inline_results = false;
};

struct RunnerTask {
  std::uint64_t id = 0;  // unique in this process
  std::shared_ptr<const RunnerJob> job;
  std::uint64_t sequence = 0;
  std::uint32_t attempt = 0;
  Bytes payload;
  std::vector<Blob> blobs = {};  // that belong to the payload, in order; mapped already
};

class RunnerLink {
 public:
  struct Options {
    // Called on a thread that reads the link when a task that runs was cancelled or timed out. The
    // daemon has already reported it; finish() for it frees its slot and is otherwise ignored.
    std::function<void(std::uint64_t task_id)> on_stop;
    // Results whose body and blobs together go beyond it end as an error of kind
    // "result_too_large".
    std::uint64_t max_result_bytes = std::uint64_t{64} << 30;
  };

  // Takes the descriptor, a connected stream socket. Throws std::runtime_error if it is not one.
  RunnerLink(int descriptor, Options options);
  ~RunnerLink();
  RunnerLink(const RunnerLink&) = delete;
  RunnerLink& operator=(const RunnerLink&) = delete;

  // Tells the daemon that tasks may come.
  void ready();
  // The next task. Blocks until there is one. It counts as started from here on. Payload and body
  // are unpacked; a task whose bytes are damaged, or whose blobs are gone, fails by itself.
  RunnerTask next();
  // Each task that next() returned ends with exactly one of these. `blobs` belong to the result:
  // those of make_blob() go as they are, any other one as a copy. A large result needs no blob of
  // its own: it travels as one.
  void finish(std::uint64_t task_id, Bytes result, const std::vector<Blob>& blobs = {});
  void fail(std::uint64_t task_id, const std::string& kind, const std::string& message,
            const std::string& traceback, Bytes extra);
  // A blob for a result: these parts, one after the other. Its file is gone with the last handle
  // unless finish() took it. Blocks on output; throws BlobError, whose text says what to do: there
  // is no room, or the worker keeps no blobs (see keeps_blobs()).
  Blob make_blob(std::span<const std::span<const std::byte>> parts);
  // Whether make_blob() can work: the worker has told this process where blobs are.
  bool keeps_blobs() const;
  // Whether this process sees the files of the producer's machine.
  bool shares_files() const;
  // One line that a task said (message.hpp, OutputLine: 0 output, 1 error, 2 log, 3 warning). Lines
  // of a job that forwards no output, and lines beyond the rate limit, are left out. Cheap: lines
  // are gathered and sent with the task's outcome or within about 100 ms.
  void say(std::uint64_t task_id, int kind, std::uint32_t level, std::string name,
           std::string text);
  // Asks the pool's stores of computed values, for a task that runs. `claimant`: any number but 0
  // that stands for one thread of one task; what it claims ends with the task. Never blocks; the
  // answer may take as long as another's computation.
  std::unique_ptr<PendingReply> ask(std::uint64_t task_id, std::uint64_t claimant,
                                    StoreQuestion question);
  // Keys of jobs of which no task will come any more, since the last call.
  std::vector<std::uint64_t> forgotten();
  // For the child of a fork: closes the link, so that only the parent speaks. The other calls have
  // no effect there from then on; next() must not be called.
  void abandon();

 private:
  class State;
  std::unique_ptr<State> state_;
};

}  // namespace muster
