// Outcomes as the application sees them: bytes or an Error.
#pragma once

#include <muster/bytes.hpp>
#include <muster/outcome.hpp>
#include <variant>

#include "common/message.hpp"

namespace muster {

// The result's own bytes, or what to throw.
std::variant<Bytes, Error> open_outcome(const Outcome& outcome);

// A call that the program must not make.
Error invalid_call(const std::string& message);

}  // namespace muster
