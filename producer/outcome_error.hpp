// Outcomes as the application sees them: bytes or an Error; and how it waits for them.
#pragma once

#include <chrono>
#include <muster/bytes.hpp>
#include <muster/outcome.hpp>
#include <string>
#include <variant>

#include "common/message.hpp"

namespace muster {

// The result's own bytes, or what to throw.
std::variant<Bytes, Error> open_outcome(const Outcome& outcome);

// A call that the program must not make.
Error invalid_call(const std::string& message);

namespace detail {

// When a wait of `timeout` that begins now ends; a century at most.
std::chrono::steady_clock::time_point deadline_after(std::chrono::nanoseconds timeout);

}  // namespace detail

}  // namespace muster
