// What `muster run` writes: a buffered file, and the tagging of lines.
// Owner: the run loop; one thread. `tag_lines` is pure.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace muster {

// Every line of `text` with `tag` and a TAB in front. A last line without end stays without.
std::string tag_lines(std::string_view text, std::string_view tag);

// A file descriptor with a buffer. After a failed write everything further is dropped.
class OutputFile {
 public:
  // `file` stays open and belongs to the caller. 128 KiB: few system calls, little memory.
  explicit OutputFile(int file, std::size_t buffer_bytes = 128 * 1024);
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;

  void write(std::string_view text);
  void flush();
  bool pending() const { return !buffer_.empty(); }
  // The errno of the first write that failed; 0: none did. EPIPE: the reader is gone.
  int error() const { return error_; }

 private:
  void write_now(std::string_view text);
  int file_;
  std::size_t buffer_bytes_;
  std::string buffer_;
  int error_ = 0;
};

}  // namespace muster
