// Outcomes as the application sees them: bytes or an Error; and how it waits for them.
#pragma once

#include <chrono>
#include <muster/blob.hpp>
#include <muster/bytes.hpp>
#include <muster/outcome.hpp>
#include <string>
#include <variant>
#include <vector>

#include "common/protocol/message.hpp"

namespace muster {

struct OpenedOutcome {
  std::variant<Bytes, Error> result;  // its own bytes, or what to throw
  std::vector<Blob> blobs;            // that they name
};

// Until when the pool counts a result that is a blob among those which are not consumed.
enum class Consumed { now, with_its_bytes };

// Of an outcome that came out of a Client. The content of one that is a blob is mapped.
OpenedOutcome open_outcome(const Outcome& outcome, Consumed consumed = Consumed::now);

// What everything ends with that waits for a broker which has refused this program. The kind says
// why: "version", "malformed", "over_limit", "out_of_order" or "identity".
Error refusal(const message::Refuse& refuse);

namespace detail {

// When a wait of `timeout` that begins now ends; a century at most.
std::chrono::steady_clock::time_point deadline_after(std::chrono::nanoseconds timeout);

}  // namespace detail

}  // namespace muster
