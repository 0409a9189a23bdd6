// How many nodes the descriptors of this process are enough for: libzmq and libssh cannot be told
// to do with fewer once a node is there.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "broker/hosts/host.hpp"

namespace muster {

struct DescriptorUse {
  std::uint64_t limit = 0;   // of the process
  std::uint64_t opened = 0;  // now, those of the nodes among them
};
// Of this process.
DescriptorUse descriptors_in_use();

// The most that a node of this host takes.
std::uint64_t descriptors_of(const Host& host);

// Why `more` hosts beside those that are `present` are too many, with numbers and what to do;
// empty: they fit.
std::string descriptor_complaint(std::span<const Host> present, std::span<const Host> more,
                                 const DescriptorUse& use);

}  // namespace muster
