// What the core has in common with libraries in other languages, which submit tasks and run them:
// limits, and the environment variables by which a task and its runner know their slot.
//
// Plain values. Threads: any.
#pragma once

#include <array>
#include <cstddef>

namespace muster {

// Limits of docs/protocol.md that a library has to keep by itself.
struct SharedLimits {
  std::size_t blob_bytes;         // buffers of arguments become blobs from this size on ...
  std::size_t result_blob_bytes;  // ... and those of results from this one
  std::size_t body_bytes;         // a larger body of a payload travels as a blob
  std::size_t payload_blobs;      // of one payload
  std::size_t result_bytes;       // of a result with its blobs, unless a worker is told less
  std::size_t labels;             // of a job
  std::size_t text_bytes;         // of a message or a traceback
};
SharedLimits shared_limits();

// Set by a worker for its runners.
inline constexpr char kNodeVariable[] = "MUSTER_NODE";             // the node's name
inline constexpr char kSlotCoresVariable[] = "MUSTER_SLOT_CORES";  // of one slot, at least 1
inline constexpr char kBlobsVariable[] = "MUSTER_BLOBS";           // the node's folder of blobs

// How many threads libraries use; a worker sets those that its own environment does not have.
inline constexpr std::array kThreadVariables = {
    "OMP_NUM_THREADS",        "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS",     "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS", "NUMBA_NUM_THREADS",    "NUMEXPR_NUM_THREADS",
};
inline constexpr char kJoblibCoresVariable[] = "LOKY_MAX_CPU_COUNT";  // joblib's count of cores

// Where this library looks for muster-broker and muster-worker first.
inline constexpr char kProgramsVariable[] = "MUSTER_BIN_DIR";

}  // namespace muster
