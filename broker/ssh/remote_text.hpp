// What both kinds of Remote do with text: lines of a held command, quoting for the node's shell,
// and the reason of a failed upload. Pure.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "broker/hosts/host.hpp"
#include "broker/ssh/remote.hpp"

namespace muster {

// Cuts two streams into lines. A line that is too long is handed on in pieces.
class LineSplitter {
 public:
  explicit LineSplitter(const LineSink& sink) : sink_(sink) {}
  void add(std::string_view bytes, bool is_error);
  void flush();  // what has no line end yet

 private:
  void emit(std::string& line, bool is_error);

  const LineSink& sink_;
  std::string lines_[2];
};

// Appends up to the kept size of CommandOutput.
void append_kept(std::string& kept, std::string_view bytes);

// One word of a POSIX shell, whatever is in it.
std::string shell_word(std::string_view text);

// A command that writes its standard input to `path`, mode 0600.
std::string upload_command(const std::string& path);

// The error of an upload that ended with `status`. `complaint` is the command's standard error.
NodeError upload_error(const std::string& host, const std::string& path, int status,
                       const std::string& complaint);

// The error when a node's sshd refuses to listen. `port` 0: any.
NodeError forward_error(const std::string& host, std::uint16_t port, const std::string& reason);
// ... because something else listens there already.
NodeError forward_taken_error(const std::string& host, std::uint16_t port);

}  // namespace muster
