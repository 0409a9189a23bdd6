// The identities of the protocol, each a type of its own so that none can be mistaken for another.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

namespace muster {

// 128 random bits. `Tag` keeps sessions, workers and incarnations apart.
template <typename Tag>
struct RandomId {
  std::uint64_t high = 0;
  std::uint64_t low = 0;
  // NOLINTNEXTLINE(modernize-use-nullptr): clang-tidy 14 takes the 0 behind `<` for a pointer
  auto operator<=>(const RandomId&) const = default;
  bool is_zero() const { return high == 0 && low == 0; }
};
using SessionId = RandomId<struct SessionTag>;        // one producer connection's life
using WorkerId = RandomId<struct WorkerTag>;          // one start of a worker daemon
using Incarnation = RandomId<struct IncarnationTag>;  // one start of a broker
using BlobId = RandomId<struct BlobTag>;              // XXH3-128 of a blob's content, or random

enum class JobId : std::uint32_t {};         // counts within a session, from 1
enum class TaskSequence : std::uint64_t {};  // counts within a job, from 0, without gaps
enum class Attempt : std::uint32_t {};       // counts the leases of a task, from 0
enum class JobKey : std::uint64_t {};        // the broker's short name for (session, job)
enum class PeerId : std::uint64_t {};        // one connection, named by the transport

constexpr std::uint64_t value(TaskSequence sequence) {
  return static_cast<std::uint64_t>(sequence);
}
constexpr std::uint32_t value(Attempt attempt) { return static_cast<std::uint32_t>(attempt); }
constexpr std::uint32_t value(JobId job) { return static_cast<std::uint32_t>(job); }
constexpr std::uint64_t value(JobKey key) { return static_cast<std::uint64_t>(key); }
constexpr TaskSequence operator+(TaskSequence sequence, std::uint64_t count) {
  return TaskSequence{value(sequence) + count};
}
constexpr Attempt next(Attempt attempt) { return Attempt{value(attempt) + 1}; }

// 32 lower-case hexadecimal digits.
template <typename Tag>
std::string to_hex(const RandomId<Tag>& id) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string text(32, '0');
  for (std::size_t i = 0; i < 16; ++i) {
    text[15 - i] = kDigits[(id.high >> (4 * i)) & 15];
    text[31 - i] = kDigits[(id.low >> (4 * i)) & 15];
  }
  return text;
}

}  // namespace muster

template <typename Tag>
struct std::hash<muster::RandomId<Tag>> {
  std::size_t operator()(const muster::RandomId<Tag>& id) const noexcept {
    return id.low ^ (id.high * 0x9e3779b97f4a7c15ULL);
  }
};
