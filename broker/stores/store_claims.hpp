// Who computes which value, and who waits for it: single flight over the whole pool. Pure.
//
// Every wait ends:
// - A claimant waits for one key at a time, and never where that would close a circle of waits; it
//   then computes the value itself. So each chain of waits ends at a claimant that does not wait.
// - That one computes, and puts or releases; when it dies, `leave` or `gone` ends its claims.
// - If it may be waiting for something else (a producer that waits for tasks, which need slots that
//   are taken by who waits for it), nobody waits for it longer than `patience`.
//
// Owner: the store server's thread, or a test.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "common/time.hpp"

namespace muster {

// Stores that the tasks of one session may use: a program has a handful.
inline constexpr std::size_t kMostStoresOfSession = 1024;

// Of the digest that stands for a user's seal beside a store's name, in hexadecimal digits.
inline constexpr std::size_t kSealDigestBytes = 16;

// The session or worker that a question came from.
struct StoreOrigin {
  bool is_worker = false;
  std::uint64_t high = 0;
  std::uint64_t low = 0;
  // NOLINTNEXTLINE(modernize-use-nullptr): clang-tidy 14 takes the 0 behind `<` for a pointer
  auto operator<=>(const StoreOrigin&) const = default;
};

struct StoreAsker {
  StoreOrigin origin;
  std::uint64_t claimant = 0;
  // NOLINTNEXTLINE(modernize-use-nullptr)
  auto operator<=>(const StoreAsker&) const = default;
};

struct ValueName {
  std::string store;
  std::string key;
  // NOLINTNEXTLINE(modernize-use-nullptr)
  auto operator<=>(const ValueName&) const = default;
};

class StoreClaims {
 public:
  struct Wait {
    StoreAsker asker;
    std::uint64_t token = 0;
    Time since{};
  };
  explicit StoreClaims(Duration patience) : patience_(patience) {}

  enum class Answer { yours, wait, too_many };
  // Asking again with the same token changes nothing.
  Answer claim(const ValueName& name, const StoreAsker& asker, std::uint64_t token, bool may_block,
               Time now);

  // Whether the asker was told to compute this value and has not put or released it since.
  bool was_told_yours(const ValueName& name, const StoreAsker& asker) const;
  bool is_claimed(const ValueName& name) const { return claims_.count(name) != 0; }
  // It has said its value, or will not.
  void forget_told(const ValueName& name, const StoreAsker& asker);

  // It asks for something else now, and does not wait any more.
  void stop_waiting(const StoreAsker& asker);

  // What these return may go on. The value is there: all that claim it or wait are done.
  std::vector<Wait> put(const ValueName& name);
  // There will be no value from this asker: all who waited for it compute it themselves.
  std::vector<Wait> release(const ValueName& name, const StoreAsker& asker);
  // The asker, or all of an origin, is no more: the next in each line computes.
  std::vector<Wait> leave(const StoreAsker& asker);
  std::vector<Wait> gone(const StoreOrigin& origin);
  // Those who have waited long enough.
  std::vector<Wait> tick(Time now);
  Time next_deadline() const;

  std::size_t claims() const { return claims_.size(); }
  std::size_t waits() const { return waiting_.size(); }
  // Aborts if the tables contradict each other or a chain of waits has no end. For tests.
  void check_invariants() const;

 private:
  struct Claim {
    StoreAsker holder;
    bool may_block = false;
    std::deque<std::pair<Wait, bool>> line;  // with the waiter's own may_block
  };
  bool closes_circle(const StoreAsker& holder, const StoreAsker& asker) const;
  void hold(const ValueName& name, Claim& claim, const StoreAsker& holder, bool may_block);
  void drop_holder(const ValueName& name, const Claim& claim);
  void tell_yours(const ValueName& name, const StoreAsker& asker);
  void forget_told(const StoreAsker& asker);

  const Duration patience_;
  std::map<ValueName, Claim> claims_;
  std::map<StoreAsker, std::set<ValueName>> held_;
  std::map<StoreAsker, ValueName> waiting_;
  // Those who compute a value beside the one who holds its claim.
  std::map<StoreAsker, std::set<ValueName>> told_;
  std::size_t told_count_ = 0;
};

}  // namespace muster
