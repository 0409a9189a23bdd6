// What the application says of a job, as the protocol says it.
#pragma once

#include <muster/producer.hpp>

#include "producer/client.hpp"

namespace muster::detail {

// Throws Error invalid for what no broker would take. `client` packs the function's body.
JobSpec spec_of(const Client& client, FunctionName&& function, const JobOptions& options);

}  // namespace muster::detail
