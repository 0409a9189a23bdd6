// The texts in a hosts file that need more than TOML: addresses, user names, sizes, and the nearest
// known word to a misspelt one. Pure. Every function that throws throws std::invalid_argument with
// what is wrong and what is right, without a place: hosts_file.cpp knows that.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace muster {

// What "[user@]host[:port][*slots]" says; an IPv6 address stands in brackets.
struct ShortHost {
  std::string user = {};
  std::string address = {};
  std::uint16_t port = 0;   // 0: not said
  std::uint32_t slots = 0;  // 0: not said
};
ShortHost split_short_host(std::string_view text);

// "::1" without brackets, as `address = ` may hold it.
bool is_bare_ipv6(std::string_view text);

// Refuse what ssh, a shell or a terminal could take for something else than a name.
void check_address(std::string_view text);
void check_user(std::string_view text);
void check_node_name(std::string_view text);
void check_jump(std::string_view text);  // comma-separated hops, or "none"

// "8GB", "512 MiB", "1.5g" (units are powers of 1024), or plain bytes.
std::uint64_t parse_memory(std::string_view text);

// The known word that `word` most likely means; empty: none is near.
std::string nearest(std::string_view word, const std::vector<std::string_view>& known);

// A text from outside as it may stand in an error message: quoted, short, on one line.
std::string quote(std::string_view text);

}  // namespace muster
