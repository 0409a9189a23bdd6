// `muster status`: the pool's status as a table for people. Pure.
#pragma once

#include <cstdint>
#include <string>

namespace muster {

// `json` is PoolStatus::json. Throws std::runtime_error when it is not a status.
std::string status_table(const std::string& json);

// Three significant digits with a unit: "850 us", "12.3 ms", "4.50 s", "2 h 05 min".
std::string duration_text(std::uint64_t microseconds);

}  // namespace muster
