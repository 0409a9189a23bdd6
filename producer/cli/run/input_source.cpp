#include "producer/cli/run/input_source.hpp"

#include <fmt/format.h>
#include <poll.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <stdexcept>
#include <utility>

namespace muster {
namespace {

constexpr std::size_t kReadBytes = 64 * 1024;  // one system call for about a thousand short lines

bool readable(int file, std::chrono::milliseconds timeout) {
  pollfd entry{file, POLLIN, 0};
  return ::poll(&entry, 1, static_cast<int>(timeout.count())) > 0;
}

bool is_blank(const std::string& text) {
  return text.find_first_not_of(" \t\r\n\v\f") == std::string::npos;
}

}  // namespace

InputSource::InputSource(std::vector<std::string> inputs) : list_(std::move(inputs)) {}

InputSource::InputSource(int file, char separator) : file_(file), separator_(separator) {}

InputSource::State InputSource::next(std::string& input) {
  for (;;) {
    const State state = next_raw(input);
    if (state != State::ready || !skip_blank_ || !is_blank(input)) return state;
  }
}

InputSource::State InputSource::next_raw(std::string& input) {
  if (file_ < 0) return next_from_list(input);
  for (;;) {
    if (take_line(input)) return State::ready;
    if (file_ended_) return State::ended;
    if (!read_more()) return State::waiting;
  }
}

InputSource::State InputSource::next_from_list(std::string& input) {
  if (position_ == list_.size()) return State::ended;
  input = std::move(list_[position_++]);
  return State::ready;
}

bool InputSource::take_line(std::string& input) {
  const auto end = buffer_.find(separator_, scanned_);
  if (end != std::string::npos) {
    input.assign(buffer_, taken_, end - taken_);
    taken_ = scanned_ = end + 1;
    return true;
  }
  scanned_ = buffer_.size();
  if (!file_ended_ || taken_ == buffer_.size()) return false;
  input.assign(buffer_, taken_);
  taken_ = buffer_.size();
  return true;
}

// False: nothing is there to be read now.
bool InputSource::read_more() {
  if (!readable(file_, std::chrono::milliseconds(0))) return false;
  buffer_.erase(0, taken_);
  scanned_ -= taken_;
  taken_ = 0;
  if (buffer_.size() > kMaxInputBytes) {
    throw std::runtime_error(fmt::format(
        "an input is longer than {} bytes (is it NUL separated? use --null)", kMaxInputBytes));
  }
  std::array<char, kReadBytes> chunk;
  const auto size = ::read(file_, chunk.data(), chunk.size());
  if (size < 0) {
    if (errno == EINTR || errno == EAGAIN) return false;
    throw std::runtime_error(fmt::format("cannot read the inputs: {}", std::strerror(errno)));
  }
  if (size == 0) file_ended_ = true;
  buffer_.append(chunk.data(), static_cast<std::size_t>(size));
  return true;
}

void InputSource::wait(int wake_file, std::chrono::milliseconds timeout) const {
  std::array<pollfd, 2> entries{pollfd{wake_file, POLLIN, 0}, pollfd{file_, POLLIN, 0}};
  ::poll(entries.data(), entries.size(), static_cast<int>(timeout.count()));
}

void InputSource::read_all(int wake_file) {
  if (file_ < 0) return;
  std::string input;
  for (;;) {
    const State state = next(input);
    if (state == State::ended) break;
    if (state == State::ready) list_.push_back(input);
    if (state == State::waiting) wait(wake_file, std::chrono::milliseconds(-1));
    if (state == State::waiting && readable(wake_file, std::chrono::milliseconds(0))) return;
  }
  file_ = -1;
}

std::optional<std::uint64_t> InputSource::total() const {
  if (file_ >= 0) return std::nullopt;
  return list_.size();
}

}  // namespace muster
