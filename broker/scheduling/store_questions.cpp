#include "broker/scheduling/store_questions.hpp"

#include <openssl/evp.h>

#include <algorithm>
#include <array>

namespace muster {
namespace {

// What a broker that has restarted keeps of workers' questions until the sessions are back.
constexpr std::size_t kMostEarly = 4096;
constexpr std::size_t kMostEarlyBytes = std::size_t{64} << 20;

// Where the values of a store and a seal stand. Values without a seal keep the plain name. The seal
// itself is in no file: who can read the broker's folder cannot pass for its owner.
std::string space_of(const std::string& store, const std::string& seal) {
  if (seal.empty()) return store;
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
  unsigned size = 0;
  if (EVP_Digest(seal.data(), seal.size(), digest.data(), &size, EVP_sha256(), nullptr) != 1) {
    size = 0;
  }
  std::string space = store + '\0';
  constexpr const char* kHex = "0123456789abcdef";
  for (std::size_t i = 0; i < kSealDigestBytes && i < size; ++i) {
    space += kHex[digest[i] >> 4U];
    space += kHex[digest[i] & 15U];
  }
  return space;
}

StoreOrigin origin_of(const SessionId& id) { return {false, id.high, id.low}; }
StoreOrigin origin_of(const WorkerId& id) { return {true, id.high, id.low}; }

bool names_a_store(const message::StoreRequest& request) {
  return request.question.operation == StoreOperation::contains && request.question.key.empty();
}

}  // namespace

void StoreQuestions::ask(SessionRecord& session, message::StoreRequest&& request) {
  StoreQuestion& question = request.question;
  const StoreOrigin origin = origin_of(session.id);
  if (question.operation == StoreOperation::leave) {
    events_.push_back({origin, std::move(request)});
    return;
  }
  const bool names = names_a_store(request);
  auto found = session.stores.find(question.store);
  if (found == session.stores.end() && session.stores.size() >= kMostStoresOfSession) {
    refuse(origin, request, "a program may use at most 1,024 stores");
    return;
  }
  if (found == session.stores.end()) {
    found = session.stores.emplace(question.store, "").first;
    found->second = space_of(question.store, names ? question.text : "");
  } else if (names) {
    found->second = space_of(question.store, question.text);
  }
  if (!names) {
    question.store = found->second;
    events_.push_back({origin, std::move(request)});
    return;
  }
  message::StoreAnswer answer{request.token, {}};
  answer.reply.status = StoreStatus::miss;
  this->answer(origin, std::move(answer));
  review_early();
}

void StoreQuestions::ask(WorkerIndex index, message::StoreRequest&& request) {
  const StoreOrigin origin = origin_of(books_.worker(index).hello.worker);
  if (request.question.operation == StoreOperation::leave) {
    std::erase_if(early_, [&](const auto& early) {
      return early.worker == index &&
             (request.claimant == 0 || early.request.claimant == request.claimant);
    });
    events_.push_back({origin, std::move(request)});
    return;
  }
  const Access access = this->access(index, request.question.store);
  if (access.is_early && keep_early(index, request)) return;
  if (access.space.empty()) {
    refuse(origin, request,
           "no program whose tasks this worker has uses the store '" + request.question.store +
               "': make its Memory in the program, too, before its tasks");
    return;
  }
  request.question.store = access.space;
  events_.push_back({origin, std::move(request)});
}

// Which values the name stands for at this worker. `is_early`: a session that has its tasks is not
// back since we started, and may still name the store.
StoreQuestions::Access StoreQuestions::access(WorkerIndex index, const std::string& store) const {
  const WorkerRecord& worker = books_.worker(index);
  Access access;
  if (worker.leases == 0) return access;
  const SessionRecord* last = nullptr;
  const auto look = [&](const SessionRecord* session) {
    if (session == std::exchange(last, session)) return;
    const auto found = session->stores.find(store);
    if (found == session->stores.end()) {
      access.is_early = access.is_early || !session->has_named_stores;
      return;
    }
    // Programs of two users that mean different stores by one name: neither is told of the other.
    access.is_ambiguous =
        access.is_ambiguous || (!access.space.empty() && access.space != found->second);
    access.space = found->second;
  };
  for (const LeaseRun& run : worker.order) {
    const auto job = books_.jobs().find(run.job);
    if (job != books_.jobs().end()) look(job->second->session);
  }
  if (access.space.empty()) {  // leases that nobody has submitted again since we started
    access.is_early = access.is_early || books_.reports().count(index) > 0;
    for (const auto& [id, session] : books_.sessions()) {
      if (session->present && !session->resuming) continue;
      for (const auto& [number, job] : session->jobs) {
        const bool has =
            std::any_of(job->adopted.begin(), job->adopted.end(),
                        [&](const auto& entry) { return entry.second.worker == index; });
        if (has) look(session.get());
      }
    }
  }
  if (access.is_ambiguous) access.space.clear();
  access.is_early = access.is_early && access.space.empty() && !access.is_ambiguous;
  return access;
}

bool StoreQuestions::keep_early(WorkerIndex index, message::StoreRequest& request) {
  std::size_t bytes = request.question.value.size();
  for (const EarlyQuestion& early : early_) bytes += early.request.question.value.size();
  if (early_.size() >= kMostEarly || bytes > kMostEarlyBytes) return false;
  early_.push_back({index, std::move(request)});
  return true;
}

void StoreQuestions::review_early() {
  for (EarlyQuestion& early : std::exchange(early_, {})) {
    ask(early.worker, std::move(early.request));
  }
}

void StoreQuestions::set_named(SessionRecord& session) {
  if (std::exchange(session.has_named_stores, true)) return;
  review_early();
}

void StoreQuestions::refuse(const StoreOrigin& origin, const message::StoreRequest& request,
                            std::string why) {
  message::StoreAnswer refusal{request.token, {}};
  refusal.reply.text = std::move(why);
  answer(origin, std::move(refusal));
}

void StoreQuestions::forget(const SessionRecord& session) {
  events_.push_back({origin_of(session.id), std::nullopt});
}

void StoreQuestions::forget(WorkerIndex index) {
  std::erase_if(early_, [&](const auto& early) { return early.worker == index; });
  events_.push_back({origin_of(books_.worker(index).hello.worker), std::nullopt});
}

void StoreQuestions::answer(const StoreOrigin& origin, message::StoreAnswer&& answer) {
  if (origin.is_worker) {
    const WorkerIndex index = books_.workers().find(WorkerId{origin.high, origin.low});
    if (index != kNoWorker) out_.send(books_.worker(index), std::move(answer));
    return;
  }
  const auto found = books_.sessions().find(SessionId{origin.high, origin.low});
  if (found == books_.sessions().end() || !found->second->present) return;
  out_.send(found->second->peer, std::move(answer));
}

}  // namespace muster
