#include "broker/hosts/host_text.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>
#include <numeric>
#include <stdexcept>

#include "common/protocol/limits.hpp"

namespace muster {
namespace {

constexpr std::size_t kLongestAddress = 255;  // of a domain name
constexpr std::size_t kLongestUser = 128;
constexpr std::size_t kLongestName = 200;  // a node's; PLAIN user names have at most 255 bytes
constexpr std::size_t kLongestQuote = 80;

bool is_word(unsigned char c) { return std::isalnum(c) != 0; }

[[noreturn]] void refuse(const std::string& text) { throw std::invalid_argument(text); }

void check_text(std::string_view what, std::string_view text, std::size_t longest) {
  if (text.empty()) refuse(fmt::format("the {} is empty", what));
  if (text.size() > longest) {
    refuse(fmt::format("the {} {} has {} bytes; at most {} are allowed", what, quote(text),
                       text.size(), longest));
  }
  if (text.front() == '-') {
    refuse(fmt::format("the {} {} begins with '-', which ssh would take for an option", what,
                       quote(text)));
  }
}

std::uint64_t parse_number(std::string_view what, std::string_view text, std::uint64_t most) {
  std::uint64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size() || number < 1 || number > most) {
    refuse(fmt::format("{} must be a number from 1 to {}, not {}", what, most, quote(text)));
  }
  return number;
}

// Steps from one word to the other: a character more, less, another, or two swapped.
std::size_t distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> before(b.size() + 1);
  std::vector<std::size_t> row(b.size() + 1);
  std::vector<std::size_t> next(b.size() + 1);
  std::iota(row.begin(), row.end(), std::size_t{0});
  for (std::size_t i = 1; i <= a.size(); ++i) {
    next[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t other = a[i - 1] == b[j - 1] ? 0 : 1;
      next[j] = std::min({row[j] + 1, next[j - 1] + 1, row[j - 1] + other});
      const bool swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
      if (swapped) next[j] = std::min(next[j], before[j - 2] + 1);
    }
    before.swap(row);
    row.swap(next);
  }
  return row[b.size()];
}

}  // namespace

std::string quote(std::string_view text) {
  std::string result = "'";
  for (const char c : text.substr(0, kLongestQuote)) {
    const auto byte = static_cast<unsigned char>(c);
    result += byte < 0x20 || byte >= 0x7f ? fmt::format("\\x{:02x}", byte) : std::string(1, c);
  }
  return result + (text.size() > kLongestQuote ? "...'" : "'");
}

bool is_bare_ipv6(std::string_view text) {
  const std::string_view address = text.substr(0, text.find('%'));
  return std::count(address.begin(), address.end(), ':') >= 2 &&
         std::all_of(address.begin(), address.end(),
                     [](unsigned char c) { return std::isxdigit(c) != 0 || c == ':' || c == '.'; });
}

void check_address(std::string_view text) {
  check_text("address", text, kLongestAddress);
  const bool ipv6 = is_bare_ipv6(text);
  if (!ipv6 && std::none_of(text.begin(), text.end(), [](unsigned char c) { return is_word(c); })) {
    refuse(fmt::format("{} is not an address", quote(text)));
  }
  for (const char c : text) {
    if (is_word(static_cast<unsigned char>(c)) || c == '.' || c == '-' || c == '_') continue;
    if (ipv6 && (c == ':' || c == '%')) continue;
    refuse(
        fmt::format("the address {} holds {}; a host name, IP address or alias has letters, "
                    "digits, '.', '-' and '_' only",
                    quote(text), quote(std::string_view(&c, 1))));
  }
}

void check_user(std::string_view text) {
  check_text("user name", text, kLongestUser);
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte > 0x20 && byte < 0x7f &&
        std::string_view("'\"`;&<>|(){}[]$*?!\\,:#").find(c) == std::string_view::npos) {
      continue;
    }
    refuse(fmt::format("the user name {} holds {}, which no user name has", quote(text),
                       quote(std::string_view(&c, 1))));
  }
}

void check_node_name(std::string_view text) {
  check_text("name", text, kLongestName);
  for (const char c : text) {
    if (is_word(static_cast<unsigned char>(c)) ||
        std::string_view("._-:%+@").find(c) != std::string_view::npos) {
      continue;
    }
    refuse(fmt::format("the name {} holds {}; use letters, digits and any of . _ - : + @",
                       quote(text), quote(std::string_view(&c, 1))));
  }
}

ShortHost split_short_host(std::string_view text) {
  const std::string_view whole = text;
  ShortHost host;
  if (const auto star = text.rfind('*'); star != std::string_view::npos) {
    host.slots = static_cast<std::uint32_t>(
        parse_number("the slots after '*'", text.substr(star + 1), limits::kMaxSlots));
    text = text.substr(0, star);
  }
  if (const auto at = text.rfind('@'); at != std::string_view::npos) {
    host.user = text.substr(0, at);
    check_user(host.user);
    text = text.substr(at + 1);
  }
  std::string_view port;
  bool has_port = false;
  if (text.starts_with('[')) {
    const auto close = text.find(']');
    if (close == std::string_view::npos) refuse(fmt::format("{} has no ']'", quote(whole)));
    const std::string_view rest = text.substr(close + 1);
    text = text.substr(1, close - 1);
    if (!is_bare_ipv6(text)) {
      refuse(fmt::format("{} is no IPv6 address; only those stand in brackets", quote(text)));
    }
    has_port = !rest.empty();
    if (has_port && rest.front() != ':') {
      refuse(fmt::format("after ']' of {} only ':PORT' may follow", quote(whole)));
    }
    if (has_port) port = rest.substr(1);
  } else if (is_bare_ipv6(text)) {
    refuse(fmt::format("put the IPv6 address of {} in brackets: '[{}]'", quote(whole), text));
  } else if (const auto colon = text.find(':'); colon != std::string_view::npos) {
    has_port = true;
    port = text.substr(colon + 1);
    text = text.substr(0, colon);
  }
  if (has_port) host.port = static_cast<std::uint16_t>(parse_number("the port", port, 65535));
  host.address = text;
  check_address(host.address);
  return host;
}

void check_jump(std::string_view text) {
  if (text == "none") return;
  while (true) {
    const auto comma = text.find(',');
    if (split_short_host(text.substr(0, comma)).slots != 0) {
      refuse(fmt::format("the jump host {} has slots, but nothing runs there", quote(text)));
    }
    if (comma == std::string_view::npos) return;
    text = text.substr(comma + 1);
  }
}

std::uint64_t parse_memory(std::string_view text) {
  const auto wrong = [&] {
    refuse(fmt::format("{} is not a size: write it like \"8GB\", \"512MB\" or 1073741824",
                       quote(text)));
  };
  double number = 0;
  const auto [end, error] =
      std::from_chars(text.data(), text.data() + text.size(), number, std::chars_format::fixed);
  if (error != std::errc() || !std::isfinite(number) || number <= 0) wrong();
  std::string unit;
  for (const char* c = end; c != text.data() + text.size(); ++c) {
    if (*c != ' ') unit += static_cast<char>(std::toupper(static_cast<unsigned char>(*c)));
  }
  if (unit.ends_with("IB")) {
    unit.erase(unit.size() - 2);
    if (unit.empty()) wrong();
  } else if (unit.ends_with('B')) {
    unit.pop_back();
  }
  const auto power = std::string_view("KMGTP").find(unit.empty() ? 'B' : unit.front());
  if (unit.size() > 1 || (!unit.empty() && power == std::string_view::npos)) wrong();
  const double bytes = number * (unit.empty() ? 1 : std::pow(1024.0, double(power + 1)));
  if (bytes >= 9e18) wrong();
  return static_cast<std::uint64_t>(bytes);
}

std::string nearest(std::string_view word, const std::vector<std::string_view>& known) {
  if (word.size() > 40) return "";
  std::string_view best;
  std::size_t least = word.size();
  for (const std::string_view candidate : known) {
    const std::size_t steps = distance(word, candidate);
    if (steps < least && steps <= std::max<std::size_t>(1, candidate.size() / 3)) {
      best = candidate;
      least = steps;
    }
  }
  return std::string(best);
}

}  // namespace muster
