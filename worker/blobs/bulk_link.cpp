#include "worker/blobs/bulk_link.hpp"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <iterator>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>
#include <variant>

#include "common/attention.hpp"
#include "common/net/secret.hpp"
#include "common/printable.hpp"
#include "worker/blobs/blob_cache.hpp"
#include "worker/system/clock.hpp"
#include "worker/system/wake_event.hpp"

namespace muster {
namespace {

constexpr int kMessagesPerTurn = 32;
constexpr Duration kDialPause = std::chrono::seconds(1);
// HELLO_BULK may come before the broker knows the worker.
constexpr Duration kHelloPause = std::chrono::milliseconds(200);
constexpr Duration kHelloPatience = std::chrono::seconds(5);

}  // namespace

class BulkLink::State {
 public:
  State(BulkOptions options, std::unique_ptr<BlobFolder> folder)
      : options_(options),
        folder_(std::move(folder)),
        cache_(*folder_, to_hex(options.worker), options.most_bytes),
        thread_([this] { run(); }) {}
  ~State() {
    post([this] { is_ending_ = true; });
    thread_.join();
  }
  State(const State&) = delete;
  State& operator=(const State&) = delete;

  void connect(const BulkBroker& broker) {
    post([&] { next_broker_ = broker; });
  }
  void be_patient() {
    post([&] { is_patient_ = true; });
  }
  void obey(const std::vector<BlobRequest>& requests) {
    post([&] { requests_.insert(requests_.end(), requests.begin(), requests.end()); });
  }
  std::vector<BlobReport> poll() {
    reported_.take();
    const std::lock_guard lock(mutex_);
    return std::exchange(reports_, {});
  }
  int descriptor() const { return reported_.descriptor(); }

 private:
  template <typename Change>
  void post(Change&& change) {
    {
      const std::lock_guard lock(mutex_);
      change();
    }
    asked_.signal();
  }

  // --- The thread's own
  void run();
  bool take_orders(Time now);
  void obey_requests(Time now);
  void dial(Time now);
  void hang_up(Time dial_at);
  void say_hello(Time now);
  void receive(Time now);
  void handle(Message&& message, Time now);
  void welcome(const message::Welcome& m, Time now);
  void check_link(Time now);
  void give_reports();
  void say(Time now);
  void send(const Message& message, Time now);
  void wait();

  const BulkOptions options_;
  WakeEvent asked_;
  WakeEvent reported_;

  std::mutex mutex_;  // guards what follows, up to the next comment
  bool is_ending_ = false;
  bool is_patient_ = false;
  std::optional<BulkBroker> next_broker_;
  std::vector<BlobRequest> requests_;
  std::vector<BlobReport> reports_;

  // The thread's.
  const std::unique_ptr<BlobFolder> folder_;
  BlobCache cache_;
  BulkBroker broker_;
  std::unique_ptr<TransportContext> context_;
  std::unique_ptr<Dealer> dealer_;
  Poller poller_;
  bool is_connected_ = false;  // there is somebody to say HELLO_BULK to
  bool is_welcome_ = false;
  bool has_more_ = false;
  Time dial_at_{};
  Time hello_at_ = kNever;  // say it again then
  Time heard_at_{};
  Attention attention_{steady_now()};  // all its times are attended ones
  std::thread thread_;                 // the last: it uses the others
};

void BulkLink::State::run() {
  while (true) {
    const Time now = attention_.wakes(steady_now(), limits::kHeartbeatInterval);
    if (!take_orders(now)) break;
    receive(now);
    cache_.tick(now);
    check_link(now);
    dial(now);
    say(now);
    give_reports();
    wait();
  }
  dealer_.reset();
  context_.reset();
}

bool BulkLink::State::take_orders(Time now) {
  std::optional<BulkBroker> next;
  {
    const std::lock_guard lock(mutex_);
    if (is_ending_) return false;
    next = std::exchange(next_broker_, std::nullopt);
    if (std::exchange(is_patient_, false)) cache_.be_patient(now);
  }
  if (next) {
    broker_ = std::move(*next);
    hang_up(now);
  }
  obey_requests(now);
  return true;
}

void BulkLink::State::obey_requests(Time now) {
  asked_.take();
  std::vector<BlobRequest> requests;
  {
    const std::lock_guard lock(mutex_);
    requests.swap(requests_);
  }
  for (const BlobRequest& request : requests) cache_.obey(request, now);
}

// --- The connection -----------------------------------------------------------------------------

void BulkLink::State::dial(Time now) {
  if (dealer_ || broker_.endpoint.empty() || now < dial_at_ || !cache_.needs_connection()) return;
  if (!context_) context_ = std::make_unique<TransportContext>();
  try {
    dealer_ = std::make_unique<Dealer>(*context_, broker_.endpoint, broker_.login);
  } catch (const TransportError& error) {
    spdlog::warn("cannot fetch blobs: {}", error.what());
    dial_at_ = now + kDialPause;
  }
}

void BulkLink::State::hang_up(Time dial_at) {
  dealer_.reset();
  dial_at_ = dial_at;
  is_connected_ = false;
  is_welcome_ = false;
  hello_at_ = kNever;
  cache_.disconnected();
}

void BulkLink::State::say_hello(Time now) {
  cache_.disconnected();
  is_connected_ = true;
  is_welcome_ = false;
  heard_at_ = now;
  hello_at_ = now + kHelloPatience;
  message::HelloBulk hello;
  hello.software_version = MUSTER_VERSION;
  hello.worker = options_.worker;
  if (dealer_->send(encode(hello, Packing::never)) != SendResult::sent) hang_up(now + kDialPause);
}

void BulkLink::State::receive(Time now) {
  has_more_ = false;
  if (!dealer_) return;
  for (int i = 0; dealer_; ++i) {
    // A message may be the first word of a new connection, with somebody else at its other end.
    if (dealer_->take_connected()) say_hello(now);
    if (!dealer_) return;
    if (i == kMessagesPerTurn) {
      has_more_ = true;
      return;
    }
    const auto frames = dealer_->receive();
    if (!frames) return;
    if (dealer_->take_connected()) say_hello(now);
    auto decoded = decode(*frames);
    if (auto* message = std::get_if<Message>(&decoded)) {
      handle(std::move(*message), now);
      say(now);  // a piece came: the next one is asked for before this turn ends
    } else {
      // A piece is lost: it is asked for again on a new connection.
      spdlog::warn(
          "a message about blobs of the broker at {} cannot be read ({}); connecting again",
          broker_.endpoint, printable_line(std::get<DecodeError>(decoded).reason));
      hang_up(now + kDialPause);
    }
  }
}

void BulkLink::State::handle(Message&& message, Time now) {
  if (!dealer_ || !is_connected_) return;
  if (const auto* answer = std::get_if<message::Welcome>(&message)) {
    welcome(*answer, now);
  } else if (std::holds_alternative<message::Unknown>(message)) {
    // The peer that says so learns no more than before.
    if (is_welcome_) cache_.disconnected();
    is_welcome_ = false;
    hello_at_ = std::min(hello_at_, now + kHelloPause);
  } else if (const auto* refusal = std::get_if<message::Refuse>(&message)) {
    if (!is_welcome_ && !broker_.proof.empty()) return;
    spdlog::warn("the broker refused the connection for blobs: {}", printable_line(refusal->text));
    hang_up(now + kDialPause);
  } else if (is_welcome_) {
    heard_at_ = now;
    if (auto* chunk = std::get_if<message::BlobChunk>(&message)) {
      cache_.receive(*chunk, now);
    } else if (const auto* gone = std::get_if<message::BlobGone>(&message)) {
      cache_.receive(*gone, now);
    } else if (const auto* want = std::get_if<message::BlobWant>(&message)) {
      obey_requests(now);  // the outcome that names it may have been quicker than this thread
      cache_.receive(*want);
    } else if (const auto* beat = std::get_if<message::Heartbeat>(&message)) {
      // How the broker learns what was read.
      if (beat->reply_wanted) send(message::Heartbeat{beat->token, false}, now);
    }
  }
}

void BulkLink::State::welcome(const message::Welcome& m, Time now) {
  if (!broker_.proof.empty() && !same_secret(m.proof, broker_.proof)) {
    hang_up(now + kDialPause);  // a stranger
    return;
  }
  is_welcome_ = true;
  hello_at_ = kNever;
  heard_at_ = now;
  cache_.connected(now);
}

void BulkLink::State::check_link(Time now) {
  if (!dealer_) return;
  if (dealer_->take_refused()) {
    hang_up(now + kDialPause);
    return;
  }
  if (!cache_.expects()) heard_at_ = now;
  if (is_connected_ && is_welcome_ && now - heard_at_ >= options_.patience) {
    spdlog::warn("no piece of a blob came for {} s; connecting again to {}",
                 std::chrono::duration_cast<std::chrono::seconds>(options_.patience).count(),
                 broker_.endpoint);
    hang_up(now);
    return;
  }
  if (is_connected_ && now >= hello_at_) say_hello(now);
}

// --- What it says -------------------------------------------------------------------------------

void BulkLink::State::say(Time now) {
  for (const Message& message : cache_.take_messages()) {
    if (!dealer_ || !is_welcome_) return;
    send(message, now);
  }
}

void BulkLink::State::send(const Message& message, Time now) {
  if (dealer_->send(encode(message, Packing::never)) != SendResult::sent) hang_up(now);
}

void BulkLink::State::give_reports() {
  std::vector<BlobReport> reports = cache_.take_reports();
  if (reports.empty()) return;
  {
    const std::lock_guard lock(mutex_);
    std::move(reports.begin(), reports.end(), std::back_inserter(reports_));
  }
  reported_.signal();
}

void BulkLink::State::wait() {
  poller_.clear();
  poller_.watch(asked_.descriptor());
  Time deadline = std::min(cache_.next_deadline(), hello_at_);
  if (dealer_) {
    poller_.watch_socket(dealer_->native_socket());
    poller_.watch_socket(dealer_->native_monitor());
    if (cache_.expects()) deadline = std::min(deadline, heard_at_ + options_.patience);
  } else if (!broker_.endpoint.empty() && cache_.needs_connection()) {
    deadline = std::min(deadline, dial_at_);
  }
  if (has_more_) deadline = Time{};
  attention_.sleeps(deadline);
  const Duration left = attention_.clock(deadline) - steady_now();
  poller_.wait(deadline == kNever ? kNever : std::max(left, Duration::zero()));
}

// --- The loop's side ----------------------------------------------------------------------------

BulkLink::BulkLink(BulkOptions options, std::unique_ptr<BlobFolder> folder)
    : state_(std::make_unique<State>(options, std::move(folder))) {}
BulkLink::~BulkLink() = default;
void BulkLink::connect(const BulkBroker& broker) { state_->connect(broker); }
void BulkLink::be_patient() { state_->be_patient(); }
void BulkLink::obey(const std::vector<BlobRequest>& requests) { state_->obey(requests); }
std::vector<BlobReport> BulkLink::poll() { return state_->poll(); }
int BulkLink::descriptor() const { return state_->descriptor(); }

}  // namespace muster
