// The user's seal: a secret that tells the broker whose values of computed stores a program may
// see. It stands in a file that only the user can read, `seal` in the user's cache folder, and goes
// to brokers over local sockets alone. Nodes never hear it.
//
// Threads: any. Blocking: on disk input and output.
#pragma once

#include <string>

namespace muster::detail {

// The user's seal in hexadecimal digits; made at the first use. A file that others may read is
// replaced. Without a place for the file, or with one of another user's, it is a random one: then
// no later program sees what this one stores.
std::string store_seal();

}  // namespace muster::detail
