#include "broker/scheduling/greetings.hpp"

#include <string>
#include <utility>

#include "broker/scheduling/departures.hpp"

namespace muster {

using message::Refuse;
using message::RefuseCode;

namespace {

Refusal refuse(RefuseCode code, std::string text) { return Refuse{code, std::move(text)}; }

Refusal check_version(const Books& books, std::uint32_t protocol, const std::string& software) {
  if (protocol == limits::kProtocolVersion) return {};
  const std::string& own = books.options().software_version;
  return refuse(RefuseCode::version,
                "protocol version " + std::to_string(protocol) + " (software " + software +
                    ") does not fit this broker's version " +
                    std::to_string(limits::kProtocolVersion) + " (software " + own +
                    "): install muster " + own + " there, or the other version here");
}

// Why one connection cannot be this as well.
Refusal check_kind(const Reactor& reactor, PeerId peer, bool is_worker) {
  const auto found = reactor.peers.find(peer);
  if (found == reactor.peers.end() || found->second.kind == PeerKind::told_unknown) return {};
  if ((found->second.kind == PeerKind::worker) == is_worker) return {};
  return refuse(RefuseCode::identity, "one connection cannot be producer and worker");
}

Refusal check_user(const Greeter& greeter, bool is_worker) {
  if (greeter.user != nullptr && !greeter.user->is_admitted) {
    return refuse(RefuseCode::identity, greeter.user->name + " is no longer authorized here");
  }
  if (greeter.user != nullptr && !is_worker) {
    return refuse(
        RefuseCode::identity,
        "only workers may come through this endpoint; programs connect to the broker's local "
        "one (ipc://) on its machine");
  }
  if (greeter.user == nullptr && is_worker && !greeter.local.may_work) {
    return refuse(RefuseCode::identity,
                  greeter.local.name +
                      " may submit tasks here, but bring no workers, because these see and answer "
                      "what others submit. The person who runs the broker can allow it: "
                      "muster-broker --worker-users");
  }
  return {};
}

// Whether this user may say HELLO for that session.
Refusal check_session(const Books& books, const SessionId& id, const LocalUser& local) {
  const auto known = books.sessions().find(id);
  const UserRecord* owner = known == books.sessions().end() ? nullptr : known->second->user;
  if (owner != nullptr && owner->who.name != local.name) {
    return refuse(RefuseCode::identity, "this session is another user's");
  }
  if (owner == nullptr && !books.users().may_join(local)) {
    return refuse(RefuseCode::over_limit,
                  local.name + " has " + std::to_string(member_limits::kSessions) +
                      " programs at this broker already, as many as one user may have; end some "
                      "first");
  }
  return {};
}

message::Welcome welcome(const SchedulerOptions& options) {
  message::Welcome answer;
  answer.software_version = options.software_version;
  answer.incarnation = options.incarnation;
  answer.heartbeat_interval = options.heartbeat_interval;
  answer.heartbeat_misses = options.heartbeat_misses;
  answer.blob_folders = options.blob_folders;
  answer.blob_token = options.blob_token;
  return answer;
}

message::Welcome welcome(const SchedulerOptions& options, const SessionRecord& session) {
  message::Welcome answer = welcome(options);
  answer.pack = options.pack;
  answer.credit_tasks = session.credit.tasks;
  answer.credit_bytes = session.credit.bytes;
  if (!options.blob_folders.empty()) {
    const LocalUser& who = session.user->who;
    answer.credit_blob_bytes = BlobAccounts::credit(who, options.credit_blob_bytes);
    answer.credit_memory_bytes = BlobAccounts::credit(who, options.credit_memory_bytes);
  }
  for (const auto& [id, job] : session.jobs) {
    if (job->declared) answer.jobs.push_back({job->id, TaskSequence{job->end()}});
  }
  return answer;
}

}  // namespace

Refusal greet(Reactor& reactor, const Greeter& greeter, message::HelloProducer&& hello, Time now) {
  if (auto refusal = check_kind(reactor, greeter.peer, false)) return refusal;
  if (auto refusal = check_user(greeter, false)) return refusal;
  Books& books = reactor.books;
  if (auto refusal = check_version(books, hello.protocol_version, hello.software_version)) {
    return refusal;
  }
  const auto old = reactor.peers.find(greeter.peer);
  if (old != reactor.peers.end() && old->second.session != nullptr &&
      old->second.session->id != hello.session) {
    return refuse(RefuseCode::identity, "one connection cannot be two sessions");
  }
  if (auto refusal = check_session(books, hello.session, greeter.local)) return refusal;
  if (books.find_session(hello.session) == nullptr) books.count("sessions");
  SessionRecord& session = books.meet_session(hello.session);
  books.join_user(session, greeter.local);
  if (session.peer != greeter.peer) forget_connection(reactor, session);  // it has reconnected
  session.label = std::move(hello.label);
  session.peer = greeter.peer;
  session.present = true;
  session.silent = false;
  session.last_heard = now;
  session.last_sent = now;
  if (!std::exchange(session.greeted, true) && hello.resuming) {
    session.resuming = true;
    session.hold_until = books.started() + books.options().resume_wait;
  }
  reactor.peers[greeter.peer] = {PeerKind::session, &session, kNoWorker, now};
  reactor.reports.claim(session, now);
  reactor.out.send(session, welcome(books.options(), session));
  reactor.out.send(session, message::Pool(reactor.announced));  // what changed in this turn follows
  for (auto& [id, job] : session.jobs) reactor.delivery.resend(*job);
  return {};
}

Refusal greet(Reactor& reactor, const Greeter& greeter, message::HelloWorker&& hello, Time now) {
  if (auto refusal = check_kind(reactor, greeter.peer, true)) return refusal;
  if (auto refusal = check_user(greeter, true)) return refusal;
  Books& books = reactor.books;
  if (auto refusal = check_version(books, hello.protocol_version, hello.software_version)) {
    return refusal;
  }
  const std::vector<message::HeldLeases> held = std::exchange(hello.held, {});
  WorkerIndex index = books.workers().find(hello.worker);
  // Twice on one connection: what it has got since the first time is on its way.
  const bool again =
      index != kNoWorker && books.worker(index).present && books.worker(index).peer == greeter.peer;
  const auto old_peer = reactor.peers.find(greeter.peer);
  if (old_peer != reactor.peers.end() && old_peer->second.worker != kNoWorker &&
      old_peer->second.worker != index) {
    return refuse(RefuseCode::identity, "one connection cannot be two workers");
  }
  const std::string& user = greeter.user == nullptr ? greeter.local.name : greeter.user->name;
  if (index != kNoWorker && books.worker(index).user != user) {
    return refuse(RefuseCode::identity, "this worker id is another user's");
  }
  if (index == kNoWorker) {
    index = books.add_worker(std::move(hello), user);
  } else {
    const PeerId previous = books.worker(index).peer;
    if (books.worker(index).present && previous != greeter.peer) reactor.peers.erase(previous);
  }
  WorkerRecord& worker = books.worker(index);
  worker.peer = greeter.peer;
  worker.present = true;
  worker.stuck_slots = 0;  // it says so again if that still holds
  worker.paused = false;
  books.forget_blobs(index);
  worker.last_heard = now;
  worker.last_sent = now;
  reactor.peers[greeter.peer] = {PeerKind::worker, nullptr, index, now};
  for (auto& [key, job] : books.jobs()) job->told.erase(index);  // a new connection is told again
  message::Welcome answer = welcome(books.options());
  answer.pack = greeter.user != nullptr;
  if (greeter.user != nullptr) answer.proof = greeter.user->proof;
  reactor.out.send(worker, std::move(answer));
  reactor.out.send(worker, message::Heartbeat{static_cast<std::uint64_t>(now.count()), true});
  if (!again) reactor.reports.reconcile(index, held, now);
  return {};
}

}  // namespace muster
