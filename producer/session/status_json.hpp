// STATUS as a JSON object, for people and programs. Pure.
#pragma once

#include <string>

#include "common/protocol/message.hpp"

namespace muster {

// Names as in docs/protocol.md and common/protocol/message.hpp; workers and jobs are arrays of
// objects.
std::string to_json(const message::Status& status);

}  // namespace muster
