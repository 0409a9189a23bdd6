#include "producer/cli/run/halt_policy.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>

namespace muster {
namespace {

constexpr std::uint64_t kMoreThanHundred = 101;  // the status for "more than 100 jobs failed"

std::optional<double> parse_number(std::string_view text) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

std::optional<HaltRule> with_amount(HaltRule rule, std::string_view amount) {
  rule.percent = amount.ends_with('%');
  if (rule.percent) amount.remove_suffix(1);
  const auto value = parse_number(amount);
  if (!value || !(*value > 0) || (rule.percent && *value > 100)) return std::nullopt;
  if (!rule.percent && *value != std::floor(*value)) return std::nullopt;
  rule.value = *value;
  return rule;
}

}  // namespace

std::optional<HaltRule> parse_halt(std::string_view text) {
  using When = HaltRule::When;
  using Why = HaltRule::Why;
  if (text == "never" || text == "0") return HaltRule{};
  if (text == "1") return HaltRule{When::soon, Why::fail, 1, false};
  if (text == "2") return HaltRule{When::now, Why::fail, 1, false};
  if (text == "-1") return HaltRule{When::soon, Why::success, 1, false};
  if (text == "-2") return HaltRule{When::now, Why::success, 1, false};
  HaltRule rule{When::soon, Why::fail, 0, false};
  if (text.ends_with('%') && text.find(',') == std::string_view::npos) {
    return with_amount(rule, text);
  }
  const auto comma = text.find(',');
  const auto equals = text.find('=');
  if (comma == std::string_view::npos || equals == std::string_view::npos || equals < comma) {
    return std::nullopt;
  }
  const auto when = text.substr(0, comma);
  const auto why = text.substr(comma + 1, equals - comma - 1);
  if (when == "now") {
    rule.when = When::now;
  } else if (when != "soon") {
    return std::nullopt;
  }
  if (why == "success") {
    rule.why = Why::success;
  } else if (why == "done") {
    rule.why = Why::done;
  } else if (why != "fail") {
    return std::nullopt;
  }
  return with_amount(rule, text.substr(equals + 1));
}

void HaltPolicy::finished(int exit_status) {
  ++done_;
  const bool failed = exit_status != 0;
  if (failed) ++failed_;
  if (reached_ || rule_.when == HaltRule::When::never) return;
  std::uint64_t count = done_;
  if (rule_.why == HaltRule::Why::fail) count = failed_;
  if (rule_.why == HaltRule::Why::success) count = done_ - failed_;
  const auto total = static_cast<double>(std::max<std::uint64_t>(total_, 1));
  const double needed = rule_.percent ? total * rule_.value / 100 : rule_.value;
  if (count == 0 || static_cast<double>(count) < needed) return;
  reached_ = true;
  if (rule_.why == HaltRule::Why::success) {
    reached_status_ = 0;
  } else if (rule_.percent) {
    reached_status_ = static_cast<int>(std::ceil(static_cast<double>(failed_) / total * 100));
  } else if (rule_.value == 1) {
    reached_status_ = exit_status & 0xff;
  } else {
    reached_status_ = static_cast<int>(std::min(failed_, kMoreThanHundred));
  }
}

int HaltPolicy::exit_status() const {
  if (reached_) return reached_status_;
  if (rule_.when != HaltRule::When::never && rule_.percent && done_ > 0) {
    return static_cast<int>(
        std::ceil(static_cast<double>(failed_) / static_cast<double>(done_) * 100));
  }
  return static_cast<int>(std::min(failed_, kMoreThanHundred));
}

}  // namespace muster
