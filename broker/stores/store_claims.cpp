#include "broker/stores/store_claims.hpp"

#include <algorithm>

#include "common/check.hpp"
#include "common/protocol/limits.hpp"

namespace muster {

StoreClaims::Answer StoreClaims::claim(const ValueName& name, const StoreAsker& asker,
                                       std::uint64_t token, bool may_block, Time now) {
  const auto waits = waiting_.find(asker);
  if (waits != waiting_.end() && waits->second != name) {
    stop_waiting(asker);  // it was interrupted
  } else if (waits != waiting_.end()) {
    for (auto& [wait, blocks] : claims_.at(name).line) {
      if (wait.asker == asker) wait.token = token;
    }
    return Answer::wait;
  }
  const auto found = claims_.find(name);
  if (found == claims_.end()) {
    if (claims_.size() >= limits::kMaxStoreWaits) return Answer::too_many;
    hold(name, claims_[name], asker, may_block);
    return Answer::yours;
  }
  Claim& claim = found->second;
  if (closes_circle(claim.holder, asker)) {
    tell_yours(name, asker);
    return Answer::yours;
  }
  if (waiting_.size() >= limits::kMaxStoreWaits) return Answer::too_many;
  claim.line.push_back({{asker, token, now}, may_block});
  waiting_.emplace(asker, name);
  return Answer::wait;
}

// Follows the waits from the holder on.
bool StoreClaims::closes_circle(const StoreAsker& holder, const StoreAsker& asker) const {
  StoreAsker last = holder;
  while (last != asker) {
    const auto waits = waiting_.find(last);
    if (waits == waiting_.end()) return false;
    last = claims_.at(waits->second).holder;
  }
  return true;
}

void StoreClaims::hold(const ValueName& name, Claim& claim, const StoreAsker& holder,
                       bool may_block) {
  claim.holder = holder;
  claim.may_block = may_block;
  held_[holder].insert(name);
}

void StoreClaims::drop_holder(const ValueName& name, const Claim& claim) {
  const auto held = held_.find(claim.holder);
  held->second.erase(name);
  if (held->second.empty()) held_.erase(held);
}

std::vector<StoreClaims::Wait> StoreClaims::put(const ValueName& name) {
  std::vector<Wait> over;
  const auto found = claims_.find(name);
  if (found == claims_.end()) return over;
  for (auto& [wait, blocks] : found->second.line) {
    waiting_.erase(wait.asker);
    over.push_back(wait);
  }
  drop_holder(name, found->second);
  claims_.erase(found);
  return over;
}

bool StoreClaims::was_told_yours(const ValueName& name, const StoreAsker& asker) const {
  const auto claimed = claims_.find(name);
  if (claimed != claims_.end() && claimed->second.holder == asker) return true;
  const auto told = told_.find(asker);
  return told != told_.end() && told->second.count(name) != 0;
}

// What finds no place here cannot be put while another computes it.
void StoreClaims::tell_yours(const ValueName& name, const StoreAsker& asker) {
  if (told_count_ >= limits::kMaxStoreWaits) return;
  if (told_[asker].insert(name).second) ++told_count_;
}

void StoreClaims::forget_told(const ValueName& name, const StoreAsker& asker) {
  const auto told = told_.find(asker);
  if (told == told_.end()) return;
  told_count_ -= told->second.erase(name);
  if (told->second.empty()) told_.erase(told);
}

void StoreClaims::forget_told(const StoreAsker& asker) {
  const auto told = told_.find(asker);
  if (told == told_.end()) return;
  told_count_ -= told->second.size();
  told_.erase(told);
}

std::vector<StoreClaims::Wait> StoreClaims::release(const ValueName& name,
                                                    const StoreAsker& asker) {
  forget_told(name, asker);
  const auto waits = waiting_.find(asker);
  if (waits != waiting_.end() && waits->second == name) {
    stop_waiting(asker);
    return {};
  }
  const auto found = claims_.find(name);
  if (found == claims_.end() || found->second.holder != asker) return {};
  Claim& claim = found->second;
  const bool next_blocks = !claim.line.empty() && claim.line.front().second;
  std::vector<Wait> over = put(name);
  if (!over.empty()) hold(name, claims_[name], over.front().asker, next_blocks);
  for (std::size_t i = 1; i < over.size(); ++i) tell_yours(name, over[i].asker);
  return over;
}

void StoreClaims::stop_waiting(const StoreAsker& asker) {
  const auto waits = waiting_.find(asker);
  if (waits == waiting_.end()) return;
  std::erase_if(claims_.at(waits->second).line,
                [&](const auto& entry) { return entry.first.asker == asker; });
  waiting_.erase(waits);
}

std::vector<StoreClaims::Wait> StoreClaims::leave(const StoreAsker& asker) {
  stop_waiting(asker);
  forget_told(asker);
  std::vector<Wait> over;
  const auto held = held_.find(asker);
  if (held == held_.end()) return over;
  const std::set<ValueName> names = held->second;
  for (const ValueName& name : names) {
    Claim& claim = claims_.at(name);
    drop_holder(name, claim);
    if (claim.line.empty()) {
      claims_.erase(name);
      continue;
    }
    const auto [next, blocks] = claim.line.front();
    claim.line.pop_front();
    waiting_.erase(next.asker);
    hold(name, claim, next.asker, blocks);
    over.push_back(next);
  }
  return over;
}

std::vector<StoreClaims::Wait> StoreClaims::gone(const StoreOrigin& origin) {
  std::vector<StoreAsker> askers;
  for (const auto& [asker, name] : waiting_) {
    if (asker.origin == origin) askers.push_back(asker);
  }
  for (const StoreAsker& asker : askers) stop_waiting(asker);  // first, so that no claim goes there
  while (true) {
    const auto told = told_.lower_bound({origin, 0});
    if (told == told_.end() || told->first.origin != origin) break;
    forget_told(StoreAsker(told->first));
  }
  askers.clear();
  for (const auto& [asker, names] : held_) {
    if (asker.origin == origin) askers.push_back(asker);
  }
  std::vector<Wait> over;
  for (const StoreAsker& asker : askers) {
    for (Wait& wait : leave(asker)) over.push_back(wait);
  }
  return over;
}

std::vector<StoreClaims::Wait> StoreClaims::tick(Time now) {
  std::vector<Wait> over;
  for (auto& [name, claim] : claims_) {
    while (claim.may_block && !claim.line.empty() &&
           claim.line.front().first.since + patience_ <= now) {
      over.push_back(claim.line.front().first);
      claim.line.pop_front();
      waiting_.erase(over.back().asker);
      tell_yours(name, over.back().asker);
    }
  }
  return over;
}

Time StoreClaims::next_deadline() const {
  Time next = kNever;
  if (waiting_.empty()) return next;
  for (const auto& [name, claim] : claims_) {
    if (!claim.may_block || claim.line.empty()) continue;
    next = std::min(next, claim.line.front().first.since + patience_);
  }
  return next;
}

void StoreClaims::check_invariants() const {
  std::size_t waits = 0;
  for (const auto& [name, claim] : claims_) {
    CHECK(held_.at(claim.holder).count(name) == 1);
    waits += claim.line.size();
    for (const auto& [wait, blocks] : claim.line) CHECK(waiting_.at(wait.asker) == name);
  }
  CHECK(waits == waiting_.size());
  std::size_t held = 0;
  for (const auto& [asker, names] : held_) {
    CHECK(!names.empty());
    held += names.size();
    for (const ValueName& name : names) CHECK(claims_.at(name).holder == asker);
  }
  CHECK(held == claims_.size());
  std::size_t told = 0;
  for (const auto& [asker, names] : told_) {
    CHECK(!names.empty());
    told += names.size();
  }
  CHECK(told == told_count_);
  for (const auto& [asker, name] : waiting_) {
    StoreAsker last = asker;
    for (std::size_t steps = 0; waiting_.count(last) != 0; ++steps) {
      CHECK(steps <= waiting_.size());
      last = claims_.at(waiting_.at(last)).holder;
    }
  }
}

}  // namespace muster
