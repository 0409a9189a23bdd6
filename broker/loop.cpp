#include "broker/loop.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <spdlog/spdlog.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <map>
#include <string_view>
#include <variant>

#include "broker/endpoint_lock.hpp"

namespace muster {
namespace {

// Messages taken in one turn: enough to form batches, few enough to keep heartbeats on time.
constexpr int kMessagesPerTurn = 256;

Time now() { return std::chrono::steady_clock::now().time_since_epoch(); }

int open_signals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  sigprocmask(SIG_BLOCK, &signals, nullptr);
  return signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
}

void take_input(Router& router, Scheduler& scheduler) {
  for (int i = 0; i < kMessagesPerTurn; ++i) {
    auto received = router.receive();
    if (!received) return;
    auto decoded = decode(received->frames);
    received->frames.clear();
    if (auto* error = std::get_if<DecodeError>(&decoded)) {
      spdlog::warn("peer {:x} refused: {}", static_cast<std::uint64_t>(received->peer),
                   error->reason);
      scheduler.malformed(received->peer, error->code, error->reason, now());
    } else {
      scheduler.receive(received->peer, std::get<Message>(std::move(decoded)), now());
    }
  }
}

void send_output(Router& router, Scheduler& scheduler, Packing packing) {
  for (Outgoing& outgoing : scheduler.take_outgoing(now())) {
    const SendResult result = router.send(outgoing.peer, encode(outgoing.message, packing));
    if (result == SendResult::sent) continue;
    // What tasks said may be left out: the next other message tells whether the peer reads.
    const bool may_be_lost = std::holds_alternative<message::Output>(outgoing.message);
    if (result == SendResult::full && may_be_lost) continue;
    spdlog::info("peer {:x} is {}", static_cast<std::uint64_t>(outgoing.peer),
                 result == SendResult::gone ? "gone" : "not reading and given up");
    scheduler.disconnected(outgoing.peer, now());
  }
}

// Tells people what the counters say happened since the last look.
class CounterLog {
 public:
  void look(const Scheduler& scheduler) {
    for (const auto& [name, count] : scheduler.counters()) {
      std::uint64_t& before = seen_[name];
      if (count != before) spdlog::info("{} +{} (now {})", name, count - before, count);
      before = count;
    }
  }

 private:
  std::map<std::string, std::uint64_t> seen_;
};

// The folder that a parent made for this broker alone; the parent may be killed before it can
// remove it.
class PrivateFolder {
 public:
  explicit PrivateFolder(const std::string& endpoint) {
    if (endpoint.empty()) return;
    check_endpoint(endpoint);
    path_ = std::filesystem::path(endpoint.substr(std::string_view("ipc://").size())).parent_path();
  }
  ~PrivateFolder() {
    if (!path_.empty()) rmdir(path_.c_str());  // only an empty one
  }
  PrivateFolder(const PrivateFolder&) = delete;
  PrivateFolder& operator=(const PrivateFolder&) = delete;

 private:
  std::filesystem::path path_;
};

}  // namespace

void run_broker(const BrokerOptions& options) {
  if (options.lifeline >= 0 && fcntl(options.lifeline, F_SETFD, FD_CLOEXEC) != 0) {
    throw TransportError(
        fmt::format("--lifeline {} is not an open descriptor: pass the reading end of a pipe",
                    options.lifeline));
  }
  const int signals = open_signals();
  // Before the sockets, so that it goes after them.
  const PrivateFolder folder(options.private_folder ? options.listen.front() : "");
  TransportContext context;
  Router router(context);
  std::vector<EndpointLock> locks;
  for (const std::string& endpoint : options.listen) {
    check_endpoint(endpoint);
    locks.emplace_back(endpoint);
    router.bind(endpoint);
    spdlog::info("listening on {}", endpoint);
  }
  Scheduler scheduler(options.scheduler, now());
  CounterLog counter_log;
  ServiceNotifier notifier(options.service);
  const Packing packing = options.scheduler.pack ? Packing::when_smaller : Packing::never;
  Poller poller;
  router.watch(poller);
  poller.watch(signals);
  if (options.lifeline >= 0) poller.watch(options.lifeline);
  while (true) {
    poller.wait(std::min(scheduler.next_deadline(), notifier.next_deadline()) - now());
    if (poller.readable(0)) break;
    if (options.lifeline >= 0 && poller.readable(1)) {
      char ignored = 0;
      if (read(options.lifeline, &ignored, 1) <= 0) break;
    }
    take_input(router, scheduler);
    if (now() >= scheduler.next_deadline()) {
      scheduler.tick(now());
      counter_log.look(scheduler);
    }
    send_output(router, scheduler, packing);
    notifier.turn(now(), ServiceState::ready, "serving");
  }
  notifier.turn(now(), ServiceState::stopping, "ending");
  spdlog::info("ending");
  close(signals);
}

}  // namespace muster
