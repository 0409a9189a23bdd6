// A child process with pipes for its standard streams, for OpensshRemote. It gets SIGTERM when the
// thread that started it ends, however that happens.
//
// Owner: one thread; start() and everything else is called by it.
#pragma once

#include <sys/types.h>

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "broker/ssh/dial.hpp"
#include "broker/ssh/waker.hpp"
#include "common/system/descriptor.hpp"

namespace muster {

class Child {
 public:
  using Output = std::function<void(std::string_view bytes, bool is_error)>;
  // Fills `buffer` with more standard input and returns its size; 0: that was all.
  using Input = std::function<std::size_t(char* buffer, std::size_t size)>;

  // Runs argv[0], found in PATH, in the C locale. Throws NodeError "connect" when there is none.
  Child(const std::vector<std::string>& argv, Output output);
  ~Child();  // kills what still runs
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  void send(std::string_view bytes) { pending_ += bytes; }
  void send_from(Input more) { more_ = std::move(more); }
  void end_input() { ends_ = true; }

  // Moves bytes until the child has ended (true), `deadline`, or something else woke the thread
  // (false). Throws NodeError "serve" once cut.
  bool turn(Waker& waker, Deadline deadline);
  // Of an ended child: as sh has it, 128 + N for signal N.
  std::optional<int> status() const { return status_; }
  // True and status() is known if it has ended by now.
  bool reap();
  void kill(int number);

 private:
  void write_some();
  void read_some(Descriptor& pipe, bool is_error);
  bool wants_to_write() const { return input_ && (!pending_.empty() || more_ || ends_); }

  Output output_;
  Input more_;
  std::string pending_;
  bool ends_ = false;
  pid_t pid_ = 0;
  Descriptor process_;  // readable when the child has ended
  Descriptor input_;
  Descriptor output_pipe_;
  Descriptor error_pipe_;
  std::optional<int> status_;
};

}  // namespace muster
