#include "worker/runner/frame_link.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <span>
#include <utility>

#include "common/protocol/limits.hpp"

namespace muster {
namespace {

constexpr std::size_t kReadBytes = std::size_t{64} << 10;
constexpr std::size_t kLengthBytes = 4;

void append_number(std::string& out, std::size_t number) {
  const auto small = static_cast<std::uint32_t>(number);  // both ends are on one machine
  std::array<char, kLengthBytes> bytes;
  std::memcpy(bytes.data(), &small, kLengthBytes);
  out.append(bytes.data(), bytes.size());
}

std::uint32_t number_at(const char* data) {
  std::uint32_t number = 0;
  std::memcpy(&number, data, kLengthBytes);
  return number;
}

}  // namespace

void append_message(std::string& out, const Message& message) {
  const Frames frames = encode(message, Packing::never);
  append_number(out, frames.size());
  for (const Bytes& frame : frames) {
    append_number(out, frame.size());
    out.append(frame.text());
  }
}

char* MessageReader::space(std::size_t& size_bytes) {
  if (begin_ == end_) begin_ = end_ = 0;
  if (buffer_.size() - end_ < kReadBytes) {
    if (begin_ > 0) {
      std::memmove(buffer_.data(), buffer_.data() + begin_, end_ - begin_);
      end_ -= begin_;
      begin_ = 0;
    }
    if (buffer_.size() - end_ < kReadBytes) {
      buffer_.resize(std::max(buffer_.size() * 2, end_ + kReadBytes));
    }
  }
  size_bytes = buffer_.size() - end_;
  return buffer_.data() + end_;
}

MessageReader::Status MessageReader::next(Message& message) {
  const char* data = buffer_.data() + begin_;
  const std::size_t available = end_ - begin_;
  if (available < kLengthBytes) return Status::incomplete;
  const std::size_t count = number_at(data);
  if (count == 0 || count > limits::kMaxFrames) return Status::broken;
  std::size_t position = kLengthBytes;
  std::vector<std::pair<std::size_t, std::size_t>> places;
  for (std::size_t i = 0; i < count; ++i) {
    if (available - position < kLengthBytes) return Status::incomplete;
    const std::size_t size_bytes = number_at(data + position);
    if (size_bytes > limits::kMaxPayloadBytes) return Status::broken;
    position += kLengthBytes;
    if (available - position < size_bytes) return Status::incomplete;
    places.emplace_back(position, size_bytes);
    position += size_bytes;
  }
  Frames frames;
  for (const auto& [offset, size_bytes] : places) {
    frames.push_back(Bytes::copy(data + offset, size_bytes));
  }
  begin_ += position;
  auto decoded = decode(frames);
  auto* found = std::get_if<Message>(&decoded);
  if (found == nullptr) return Status::broken;
  message = std::move(*found);
  return Status::message;
}

}  // namespace muster
