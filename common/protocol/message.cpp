#include "common/protocol/message.hpp"

#include <array>

namespace muster {

const char* name_of(const Message& message) {
  static constexpr std::array<const char*, std::variant_size_v<Message>> kNames = {
      "HELLO_PRODUCER", "HELLO_WORKER",    "WELCOME",     "REFUSE",
      "UNKNOWN",        "HEARTBEAT",       "GOODBYE",     "JOB",
      "SUBMIT",         "END_JOB",         "CANCEL",      "OUTCOMES",
      "ACK_OUTCOMES",   "CREDIT",          "NOTICE",      "WORKER_JOB",
      "TASKS",          "WORKER_OUTCOMES", "ACK_LEASES",  "RECALL",
      "RETURNED",       "STOP_TASKS",      "FORGET_JOB",  "WORKER_STATE",
      "STATUS_REQUEST", "STATUS",          "OUTPUT",      "POOL",
      "WORKER_OUTPUT",  "NODES_UP",        "NODES_DOWN",  "NODES_ANSWER",
      "HELLO_BULK",     "BLOB_PUT",        "BLOB_ANSWER", "BLOB_RELEASE",
      "BLOB_WANT",      "BLOB_CHUNK",      "BLOB_GONE",   "WORKER_BLOBS",
      "STORE_REQUEST",  "STORE_ANSWER",    "RESULTS_HELD"};
  return message.valueless_by_exception() ? "NONE" : kNames[message.index()];
}

}  // namespace muster
