#include "producer/cli/terminal/output.hpp"

#include <poll.h>
#include <unistd.h>

#include <cerrno>

namespace muster {

std::string tag_lines(std::string_view text, std::string_view tag) {
  std::string tagged;
  while (!text.empty()) {
    auto size = text.find('\n');
    size = size == std::string_view::npos ? text.size() : size + 1;
    tagged.append(tag).append("\t").append(text.substr(0, size));
    text.remove_prefix(size);
  }
  return tagged;
}

OutputFile::OutputFile(int file, std::size_t buffer_bytes)
    : file_(file), buffer_bytes_(buffer_bytes) {}

void OutputFile::write(std::string_view text) {
  if (buffer_.size() + text.size() > buffer_bytes_) flush();
  if (text.size() > buffer_bytes_) {
    write_now(text);
  } else {
    buffer_.append(text);
  }
}

void OutputFile::flush() {
  write_now(buffer_);
  buffer_.clear();
}

void OutputFile::write_now(std::string_view text) {
  while (!text.empty() && error_ == 0) {
    const auto written = ::write(file_, text.data(), text.size());
    if (written >= 0) {
      text.remove_prefix(static_cast<std::size_t>(written));
    } else if (errno == EAGAIN) {  // somebody else made the file non-blocking
      pollfd entry{file_, POLLOUT, 0};
      ::poll(&entry, 1, -1);
    } else if (errno != EINTR) {
      error_ = errno;
    }
  }
}

}  // namespace muster
