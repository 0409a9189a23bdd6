// What is thrown when the program makes a call that it must not make. Pure; any thread.
#pragma once

#include <muster/outcome.hpp>
#include <string>

namespace muster {

inline Error invalid_call(const std::string& message) {
  return Error(ErrorCode::invalid, "invalid", message);
}

}  // namespace muster
