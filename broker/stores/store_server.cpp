#include "broker/stores/store_server.hpp"

#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <bit>
#include <chrono>
#include <exception>
#include <fstream>
#include <optional>
#include <utility>

#include "common/protocol/limits.hpp"
#include "common/system/quiet_thread.hpp"

namespace muster {
namespace {

// How long others wait for a claimant that may itself be waiting for something else.
constexpr Duration kPatience = std::chrono::seconds(10);
constexpr std::uint64_t kMostAnswerBytes = std::uint64_t{16} << 20;
const char* const kTooManyQuestions = "too many questions of this session or worker wait";
constexpr std::size_t kMostUploads = 4096;  // at once: descriptors

Time now() { return std::chrono::steady_clock::now().time_since_epoch(); }

// The same for all processes of this kernel's life, and for no others.
std::string boot_id() {
  std::ifstream file("/proc/sys/kernel/random/boot_id");
  std::string text;
  std::getline(file, text);
  return text;
}

StoreReply status_only(StoreStatus status) {
  StoreReply reply;
  reply.status = status;
  return reply;
}

// Does the work; returns what it threw, empty: nothing.
template <typename Work>
std::string trouble_of(const Work& work) {
  try {
    work();
    return "";
  } catch (const std::exception& error) {
    const std::string what = error.what();
    return what.empty() ? "an unknown error" : what;
  }
}

StoreReply refused(std::string why) {
  StoreReply reply;
  reply.text = std::move(why);
  return reply;
}

}  // namespace

StoreServer::StoreServer(StoreOptions options)
    : options_(std::move(options)),
      bell_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      machine_(boot_id()),
      claims_(kPatience) {
  if (!options_.folder.empty()) store_ = std::make_unique<ValueStore>(options_);
}

StoreServer::~StoreServer() {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

// --- The loop's side ----------------------------------------------------------------------------

void StoreServer::ask(const StoreOrigin& origin, message::StoreRequest&& request) {
  const std::uint64_t token = request.token;
  if (too_many(origin)) {
    reply(origin, token, refused(kTooManyQuestions));
    return;
  }
  const std::lock_guard lock(mutex_);
  events_.emplace_back(Question{origin, std::move(request)});
  changed_.notify_all();
  if (thread_.joinable()) return;
  thread_ = quiet_thread([this] { run(); });
}

// Whether this would be one question too many; counts it otherwise.
bool StoreServer::too_many(const StoreOrigin& origin) {
  const std::lock_guard lock(mutex_);
  if (waiting_[origin] >= limits::kMaxStoreWaits) return true;
  ++waiting_[origin];
  return false;
}

void StoreServer::gone(const StoreOrigin& origin) {
  const std::lock_guard lock(mutex_);
  if (!thread_.joinable()) return;
  events_.emplace_back(origin);
  changed_.notify_all();
}

std::vector<AddressedReply> StoreServer::take_answers() {
  std::uint64_t ignored = 0;
  if (::read(bell_.get(), &ignored, sizeof ignored) < 0) return {};
  const std::lock_guard lock(mutex_);
  answer_bytes_ = 0;
  changed_.notify_all();
  return std::exchange(answers_, {});
}

std::vector<std::pair<std::string, std::uint64_t>> StoreServer::counters() const {
  const std::lock_guard lock(mutex_);
  return counters_;
}

// --- The thread ---------------------------------------------------------------------------------

void StoreServer::run() {
  std::unique_lock lock(mutex_);
  while (!ending_) {
    if (events_.empty()) {
      const Time deadline = claims_.next_deadline();
      if (deadline == kNever) {
        changed_.wait(lock);
      } else if (deadline > now()) {
        changed_.wait_for(lock, deadline - now());
      }
    }
    std::deque<Event> events = std::exchange(events_, {});
    lock.unlock();
    for (Event& event : events) {
      await_room();
      const auto handle_it = [&] { std::visit([this](auto& kind) { handle(kind); }, event); };
      if (const std::string why = trouble_of(handle_it); !why.empty()) {
        trouble_of([&] { fail(event, why); });
      }
    }
    const std::string why = trouble_of([&] {
      go_on(claims_.tick(now()));
      publish_counters();
    });
    if (!why.empty()) spdlog::error("the stores go on although a turn failed: {}", why);
    lock.lock();
  }
}

// The store goes on, and the asker is told.
void StoreServer::fail(const Event& event, const std::string& why) {
  if (std::has_single_bit(++failures_)) {
    spdlog::error("a question to the stores cannot be answered: {} ({} such so far)", why,
                  failures_);
  }
  const auto* question = std::get_if<Question>(&event);
  if (question == nullptr) return;
  const message::StoreRequest& request = question->request;
  const ValueName name{request.question.store, request.question.key};
  const StoreAsker asker{question->origin, request.claimant};
  reply(question->origin, request.token,
        refused(fmt::format("the broker cannot answer: {}; see its log", why)));
  uploads_.erase({asker, name});
  go_on(claims_.release(name, asker));  // no value comes: all that wait are on their own
}

// The loop takes answers in every turn: no more of them lie here than it sends in one.
void StoreServer::await_room() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return ending_ || answer_bytes_ < kMostAnswerBytes; });
}

bool StoreServer::open_store() {
  if (store_) return true;
  try {
    store_ = std::make_unique<ValueStore>(options_);
    failure_.clear();
  } catch (const std::exception& error) {
    if (failure_ != error.what()) spdlog::error("no stores: {}", error.what());
    failure_ = error.what();
  }
  return store_ != nullptr;
}

void StoreServer::handle(Question& question) {
  {
    const std::lock_guard lock(mutex_);
    const auto its = waiting_.find(question.origin);
    if (--its->second == 0) waiting_.erase(its);
  }
  const message::StoreRequest& request = question.request;
  const StoreQuestion& q = request.question;
  const ValueName name{q.store, q.key};
  const std::string forbidden = not_a_workers(question, name);
  if (!forbidden.empty()) {
    reply(question.origin, request.token, refused(forbidden));
  } else if (q.operation == StoreOperation::leave && request.claimant == 0) {
    handle(question.origin);  // all of them: its connection is new
  } else if (q.operation == StoreOperation::leave) {
    const StoreAsker asker{question.origin, request.claimant};
    std::erase_if(uploads_, [&](const auto& upload) { return upload.first.first == asker; });
    go_on(claims_.leave(asker));
  } else if (!open_store()) {
    reply(question.origin, request.token, refused(failure_));
  } else if (q.operation == StoreOperation::claim) {
    claim(question, name);
  } else if (q.operation == StoreOperation::release) {
    const StoreAsker asker{question.origin, request.claimant};
    uploads_.erase({asker, name});
    go_on(claims_.release(name, asker));
    reply(question.origin, request.token, status_only(StoreStatus::done));
  } else if (q.operation == StoreOperation::put) {
    reply(question.origin, request.token, put(question, name));
  } else {
    reply(question.origin, request.token, answer_at_once(question, name));
  }
}

// Why a worker must not ask that, or nothing: nodes say values only where their tasks were told to
// compute them, or where nothing is that anybody could lose.
std::string StoreServer::not_a_workers(const Question& question, const ValueName& name) const {
  if (!question.origin.is_worker) return "";
  const StoreAsker asker{question.origin, question.request.claimant};
  switch (question.request.question.operation) {
    case StoreOperation::put:
      if (claims_.was_told_yours(name, asker)) return "";
      if (!claims_.is_claimed(name) && (!store_ || !store_->has(name))) return "";
      return "a task stores a value only under a key that it has claimed";
    case StoreOperation::remove:
      if (claims_.was_told_yours(name, asker)) return "";
      return "a task removes a value only under a key that it has claimed: do it in the program";
    case StoreOperation::remove_all:
    case StoreOperation::trim:
      return "a task removes no values of others from a store: do it in the program";
    case StoreOperation::get:
    case StoreOperation::claim:
    case StoreOperation::release:
    case StoreOperation::contains:
    case StoreOperation::list:
    case StoreOperation::read:
    case StoreOperation::leave:
      return "";
  }
  return "";
}

void StoreServer::handle(const StoreOrigin& gone) {
  std::erase_if(uploads_, [&](const auto& upload) { return upload.first.first.origin == gone; });
  go_on(claims_.gone(gone));
}

// What get and claim say first.
StoreReply StoreServer::found(const ValueName& name, bool& is_there) {
  std::optional<ValueStore::Found> value = store_->find(name);
  is_there = value.has_value();
  if (!is_there) return status_only(StoreStatus::miss);
  StoreReply reply = status_only(StoreStatus::hit);
  reply.text = std::move(value->text);
  reply.value = std::move(value->value);
  reply.size_bytes = value->size_bytes;
  reply.version = value->version;
  reply.machine = machine_;
  reply.file = std::move(value->file);
  return reply;
}

StoreReply StoreServer::yours() const {
  StoreReply reply = status_only(StoreStatus::yours);
  reply.machine = machine_;
  reply.folder = store_->incoming();
  return reply;
}

void StoreServer::claim(const Question& question, const ValueName& name) {
  const message::StoreRequest& request = question.request;
  bool is_there = false;
  StoreReply value = found(name, is_there);
  // The asker has seen this version and wants another.
  if (is_there && request.question.version == value.version) is_there = false;
  ++(is_there ? hits_ : misses_);
  if (is_there) {
    claims_.stop_waiting({question.origin, request.claimant});
    reply(question.origin, request.token, std::move(value));
    return;
  }
  switch (claims_.claim(name, {question.origin, request.claimant}, request.token,
                        request.question.may_block, now())) {
    case StoreClaims::Answer::yours:
      reply(question.origin, request.token, yours());
      break;
    case StoreClaims::Answer::wait:
      break;
    case StoreClaims::Answer::too_many:
      reply(question.origin, request.token, refused("too many claims at once"));
      break;
  }
}

StoreReply StoreServer::put(const Question& question, const ValueName& name) {
  const StoreQuestion& q = question.request.question;
  const StoreAsker asker{question.origin, question.request.claimant};
  bool whole = true;
  bool changed = false;
  std::string error;
  if (q.key.empty()) {
    error = "a value without a key";
  } else if (!q.file.empty()) {
    error = store_->adopt(name, q.text, q.file, q.size_bytes);
  } else if (q.offset == 0 && q.value.size() == q.size_bytes) {
    error = store_->put(name, q.text, q.value);
  } else {
    error = put_piece(question, name, whole, changed);
  }
  if (changed) return status_only(StoreStatus::changed);
  if (!error.empty()) {
    uploads_.erase({asker, name});
    go_on(claims_.release(name, asker));  // no value comes: all that wait are on their own
    return refused(std::move(error));
  }
  if (whole) {
    claims_.forget_told(name, asker);
    for (const StoreClaims::Wait& wait : claims_.put(name)) {
      bool is_there = false;
      StoreReply value = found(name, is_there);
      ++hits_;
      reply(wait.asker.origin, wait.token, is_there ? std::move(value) : yours());
    }
  }
  return status_only(StoreStatus::done);
}

std::string StoreServer::put_piece(const Question& question, const ValueName& name, bool& whole,
                                   bool& changed) {
  const StoreQuestion& q = question.request.question;
  const std::pair key{StoreAsker{question.origin, question.request.claimant}, name};
  whole = false;
  auto found = uploads_.find(key);
  if (q.offset == 0) {
    uploads_.erase(key);
    if (uploads_.size() >= kMostUploads) return "too many values are on their way at once";
    std::unique_ptr<ValueStore::Upload> upload;
    if (std::string error = store_->begin(q.size_bytes, upload); !error.empty()) return error;
    found = uploads_.insert_or_assign(key, std::move(upload)).first;
  }
  if (found == uploads_.end() || q.offset > found->second->received_bytes() ||
      q.size_bytes != found->second->size_bytes()) {
    changed = true;  // we have restarted: it begins again
    return "";
  }
  ValueStore::Upload& upload = *found->second;
  if (q.offset < upload.received_bytes()) return "";  // said twice
  if (std::string error = upload.append(q.value.span()); !error.empty()) return error;
  if (upload.received_bytes() < upload.size_bytes()) return "";
  whole = true;
  std::string error = store_->finish(name, q.text, upload);
  uploads_.erase(key);
  return error;
}

StoreReply StoreServer::answer_at_once(const Question& question, const ValueName& name) {
  const StoreQuestion& q = question.request.question;
  StoreReply reply = status_only(StoreStatus::done);
  switch (q.operation) {
    case StoreOperation::get: {
      bool is_there = false;
      reply = found(name, is_there);
      ++(is_there ? hits_ : misses_);
      break;
    }
    case StoreOperation::contains: {
      auto there = store_->look_at(name);
      reply.status = there ? StoreStatus::hit : StoreStatus::miss;
      if (there) reply.text = std::move(there->text);
      break;
    }
    case StoreOperation::list:
      reply.entries = store_->list(name, q.text);
      break;
    case StoreOperation::remove:
      store_->remove(name);
      break;
    case StoreOperation::remove_all:
      store_->remove_all(q.store, q.key);
      break;
    case StoreOperation::trim:
      reply.size_bytes = store_->trim(q.store, q.limits);
      break;
    case StoreOperation::read: {
      auto piece = store_->read(name, q.version, q.offset, q.size_bytes);
      reply.status = piece ? StoreStatus::hit : StoreStatus::changed;
      if (piece) reply.value = std::move(*piece);
      break;
    }
    case StoreOperation::claim:
    case StoreOperation::put:
    case StoreOperation::release:
    case StoreOperation::leave:
      break;  // handled before
  }
  return reply;
}

void StoreServer::go_on(const std::vector<StoreClaims::Wait>& waits) {
  for (const StoreClaims::Wait& wait : waits) reply(wait.asker.origin, wait.token, yours());
}

void StoreServer::reply(const StoreOrigin& origin, std::uint64_t token, StoreReply&& reply) {
  {
    const std::lock_guard lock(mutex_);
    answer_bytes_ += reply.value.size();
    answers_.push_back({origin, {token, std::move(reply)}});
  }
  const std::uint64_t one = 1;
  [[maybe_unused]] const ssize_t rung = ::write(bell_.get(), &one, sizeof one);
}

void StoreServer::publish_counters() {
  if (!store_) return;
  const std::lock_guard lock(mutex_);
  counters_ = {{"stored_waits", claims_.waits()},    {"stored_values", store_->items()},
               {"stored_bytes", store_->bytes()},    {"stored_hits", hits_},
               {"stored_misses", misses_},           {"stored_evicted", store_->evicted()},
               {"stored_damaged", store_->damaged()}};
}

}  // namespace muster
