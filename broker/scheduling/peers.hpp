// Connections, as the scheduler knows them. Pure.
#pragma once

#include <string>
#include <unordered_map>

#include "broker/books/job_table.hpp"
#include "broker/books/worker_table.hpp"
#include "common/protocol/ids.hpp"
#include "common/time.hpp"

namespace muster {

// The user behind a connection that came through an endpoint which authenticates.
struct RemoteUser {
  std::string name;
  std::string proof;        // WELCOME carries it
  bool is_admitted = true;  // false: no longer
};

enum class PeerKind { told_unknown, refused, session, silent_session, worker };

struct Peer {
  PeerKind kind{};
  SessionRecord* session = nullptr;
  WorkerIndex worker = kNoWorker;
  Time last_heard{0};
  Time told_unknown = -std::chrono::hours(1);  // a silent session, the last time
};

using Peers = std::unordered_map<PeerId, Peer>;

}  // namespace muster
