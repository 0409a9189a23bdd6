#include "common/net/zmtp_scanner.hpp"

#include <algorithm>

namespace muster {
namespace {

constexpr std::size_t kVersionAt = 10;
constexpr std::size_t kMechanismAt = 12;
constexpr unsigned kMore = 1;
constexpr unsigned kLong = 2;
constexpr unsigned kCommand = 4;
// What READY and INITIATE say in Muster takes far less.
constexpr std::uint64_t kMostCommandBytes = 4096;

unsigned char byte_at(std::string_view text, std::size_t at) {
  return static_cast<unsigned char>(text[at]);
}

std::uint64_t number(std::string_view bytes) {
  std::uint64_t value = 0;
  for (const char byte : bytes) value = value << 8 | static_cast<unsigned char>(byte);
  return value;
}

// Takes one string with a length of `length_bytes` before it; false: the text ends within.
bool take_string(std::string_view& text, std::size_t length_bytes, std::string_view& string) {
  if (text.size() < length_bytes) return false;
  const std::uint64_t size = number(text.substr(0, length_bytes));
  text.remove_prefix(length_bytes);
  if (text.size() < size) return false;
  string = text.substr(0, size);
  text.remove_prefix(size);
  return true;
}

}  // namespace

ZmtpScanner::Verdict ZmtpScanner::read(std::string_view bytes) {
  if (greeting_size_ < kGreetingBytes) {
    const Verdict verdict = greet(bytes);
    if (verdict != Verdict::fine) return verdict;
  }
  while (!bytes.empty() && !encrypted_) {
    if (!in_body_) {
      header_[header_size_++] = byte_at(bytes, 0);
      bytes.remove_prefix(1);
      const std::size_t whole = (header_[0] & kLong) != 0 ? kMostHeaderBytes : 2;
      if (header_size_ < whole) continue;
      const Verdict verdict = begin_frame();
      if (verdict != Verdict::fine) return verdict;
    } else {
      take(bytes);
    }
    if (!in_body_ || body_left_ > 0) continue;
    const Verdict verdict = end_frame();
    if (verdict != Verdict::fine) return verdict;
  }
  return Verdict::fine;
}

ZmtpScanner::Verdict ZmtpScanner::greet(std::string_view& bytes) {
  const std::size_t size = std::min(bytes.size(), kGreetingBytes - greeting_size_);
  std::copy_n(bytes.begin(), size, greeting_.begin() + greeting_size_);
  greeting_size_ += size;
  bytes.remove_prefix(size);
  const std::string_view all(greeting_.data(), greeting_size_);
  const bool has_signature = byte_at(all, 0) == 0xff &&
                             (all.size() < kVersionAt || (byte_at(all, kVersionAt - 1) & 1) != 0);
  const bool has_version = all.size() <= kVersionAt || byte_at(all, kVersionAt) >= 3;
  if (!has_signature || !has_version) return Verdict::foreign;
  encrypted_ = all.size() == kGreetingBytes &&
               all.substr(kMechanismAt).starts_with(std::string_view("CURVE"));
  return Verdict::fine;
}

ZmtpScanner::Verdict ZmtpScanner::begin_frame() {
  const std::string_view header(reinterpret_cast<const char*>(header_.data()), header_size_);
  body_left_ = number(header.substr(1));
  header_size_ = 0;
  in_body_ = true;
  command_.clear();
  is_command_ = (header_[0] & kCommand) != 0;
  if (is_command_) {
    // libzmq refuses nothing that is larger before the handshake has ended.
    return body_left_ <= kMostCommandBytes ? Verdict::fine : Verdict::foreign;
  }
  if (body_left_ > limits::kMaxPayloadBytes) return Verdict::endless;
  message_bytes_ += body_left_;
  largest_frame_ = std::max(largest_frame_, body_left_);
  ++frames_;
  const bool too_long = message_bytes_ - largest_frame_ > kMaxUnfinishedBytes;
  return too_long || frames_ > kMaxUnfinishedFrames ? Verdict::endless : Verdict::fine;
}

void ZmtpScanner::take(std::string_view& bytes) {
  const std::size_t size = std::min<std::uint64_t>(bytes.size(), body_left_);
  if (is_command_ && !is_ready_) command_.append(bytes.substr(0, size));
  bytes.remove_prefix(size);
  body_left_ -= size;
}

ZmtpScanner::Verdict ZmtpScanner::end_frame() {
  in_body_ = false;
  if (is_command_) {
    is_command_ = false;
    return !is_ready_ && names_itself() ? Verdict::claims_id : Verdict::fine;
  }
  is_ready_ = true;
  if ((header_[0] & kMore) == 0) message_bytes_ = largest_frame_ = frames_ = 0;
  return Verdict::fine;
}

// READY, and with PLAIN INITIATE, carry properties; one of them is the routing id.
bool ZmtpScanner::names_itself() const {
  std::string_view text(command_);
  std::string_view name;
  std::string_view content;
  if (!take_string(text, 1, name) || (name != "READY" && name != "INITIATE")) return false;
  while (take_string(text, 1, name) && take_string(text, 4, content)) {
    if (name == "Identity" && !content.empty()) return true;
  }
  return false;
}

}  // namespace muster
