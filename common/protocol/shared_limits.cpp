#include <muster/shared.hpp>

#include "common/protocol/limits.hpp"

namespace muster {

SharedLimits shared_limits() {
  return {limits::kBlobBytes,       limits::kResultBlobBytes, limits::kMaxBodyBytes,
          limits::kMaxPayloadBlobs, limits::kMaxResultBytes,  limits::kMaxLabels,
          limits::kMaxTextBytes};
}

}  // namespace muster
