// Where the inputs of `muster run` come from: a list, or the lines of a file that are read lazily
// and without blocking, so that an endless input streams in bounded memory.
// Owner: the run loop; one thread.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace muster {

// The longest input. Linux passes at most 128 KiB in one argument; this leaves room for more.
inline constexpr std::size_t kMaxInputBytes = std::size_t{1} << 20;

class InputSource {
 public:
  explicit InputSource(std::vector<std::string> inputs);
  // Reads `file`, which must stay open; inputs end with `separator`, the last one may lack it.
  InputSource(int file, char separator);

  // Inputs of nothing but white space are left out from now on (--no-run-if-empty).
  void skip_blank() { skip_blank_ = true; }

  enum class State {
    ready,    // `input` is the next one
    waiting,  // none is there yet; see wait()
    ended,
  };
  // Never blocks. Throws std::runtime_error when reading fails or an input is too long.
  State next(std::string& input);
  // Blocks until there may be a next input, `wake_file` is readable, or `timeout` passed.
  void wait(int wake_file, std::chrono::milliseconds timeout) const;
  // Reads everything into memory so that total() is known; stops early when `wake_file` is
  // readable.
  void read_all(int wake_file);
  // The number of all inputs, when it is known.
  std::optional<std::uint64_t> total() const;

 private:
  State next_raw(std::string& input);
  State next_from_list(std::string& input);
  bool take_line(std::string& input);
  bool read_more();

  std::vector<std::string> list_;
  std::size_t position_ = 0;
  int file_ = -1;
  char separator_ = '\n';
  bool skip_blank_ = false;
  bool file_ended_ = false;
  std::string buffer_;       // what was read and not yet taken starts at taken_
  std::size_t taken_ = 0;    // ... everything before it is gone
  std::size_t scanned_ = 0;  // ... up to here it holds no separator
};

}  // namespace muster
