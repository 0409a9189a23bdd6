#include "worker/executors/output_capture.hpp"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>

namespace muster {
namespace {

constexpr std::size_t kReadBytes = std::size_t{64} << 10;

}  // namespace

void OutputCapture::read(std::size_t most_bytes) {
  static thread_local std::array<char, kReadBytes> buffer;
  while (pipe_ && most_bytes > 0) {
    const std::size_t wanted = std::min(buffer.size(), most_bytes);
    const ssize_t size = ::read(pipe_.get(), buffer.data(), wanted);
    if (size < 0 && errno == EINTR) continue;
    if (size < 0 && errno == EAGAIN) return;
    if (size <= 0) {
      pipe_.reset();
      return;
    }
    const auto got = static_cast<std::size_t>(size);
    const std::size_t kept = std::min<std::uint64_t>(got, limit_bytes_ - text_.size());
    text_.append(buffer.data(), kept);
    truncated_ = truncated_ || kept < got;
    most_bytes -= got;
    if (got < wanted) return;
  }
}

void OutputCapture::finish() {
  int waiting_bytes = 0;
  ::ioctl(pipe_.get(), FIONREAD, &waiting_bytes);
  read(static_cast<std::size_t>(std::max(waiting_bytes, 0)));
  pipe_.reset();
}

}  // namespace muster
