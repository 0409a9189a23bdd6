// What the application says of a job, as the protocol says it.
#pragma once

#include <muster/producer.hpp>
#include <string>
#include <vector>

#include "producer/client/client.hpp"

namespace muster::detail {

// Throws Error invalid for what no broker would take. `client` packs the function's body; this may
// block (Client::pack).
JobSpec spec_of(const Client& client, const FunctionName& function, const JobOptions& options);

// The plug-in libraries that go with a job, and the body that carries them to the nodes: one blob
// each, and their names. Throws Error invalid when one is not there.
std::vector<std::string> shipped_by(const FunctionName& function, const JobOptions& options);
Payload pack_libraries(const Client& client, FunctionKind kind,
                       const std::vector<std::string>& libraries);

}  // namespace muster::detail
