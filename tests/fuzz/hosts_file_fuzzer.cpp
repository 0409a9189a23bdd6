// Hosts files come from people, and over NODES_UP from programs: any text gives hosts or one
// complaint that names a place, on one line.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>

#include "broker/hosts/hosts_file.hpp"
#include "common/check.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    for (const muster::Host& host : muster::parse_hosts(text, "h", "/folder")) {
      CHECK(!host.name.empty() && !host.address.empty() && host.address.front() != '-');
      CHECK(host.user.empty() || host.user.front() != '-');
    }
  } catch (const std::invalid_argument& error) {
    const std::string said = error.what();
    CHECK(said.starts_with("h:"));
    CHECK(std::count(said.begin(), said.end(), '\n') == 0);
  }
  return 0;
}
