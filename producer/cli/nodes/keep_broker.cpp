#include "producer/cli/nodes/keep_broker.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <stdexcept>
#include <utility>

#include "common/system/descriptor.hpp"
#include "producer/client/discovery.hpp"
#include "producer/embedded/supervisor.hpp"

namespace muster {
namespace {

constexpr int kMostQuickDeaths = 10;
// The broker ends the workers on its nodes first.
constexpr std::chrono::seconds kGrace{15};

// The lock by which others see that a broker is kept here; its file goes with it.
class KeeperLock {
 public:
  explicit KeeperLock(std::string path)
      : path_(std::move(path)),
        file_(::open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600)) {
    // A program that looks for a broker holds the lock for a moment.
    for (int tries = 0; tries < kTries; ++tries) {
      if (file_ && ::flock(file_.get(), LOCK_EX | LOCK_NB) == 0) return;
      ::poll(nullptr, 0, kPauseMilliseconds);
    }
    throw std::runtime_error(path_ + ": another broker already listens there");
  }
  ~KeeperLock() { ::unlink(path_.c_str()); }
  KeeperLock(const KeeperLock&) = delete;
  KeeperLock& operator=(const KeeperLock&) = delete;

 private:
  static constexpr int kTries = 50;
  static constexpr int kPauseMilliseconds = 5;

  const std::string path_;
  const Descriptor file_;
};

// For all threads; they arrive through the descriptor.
Descriptor take_signals() {
  sigset_t signals;
  sigemptyset(&signals);
  for (const int signal : {SIGTERM, SIGINT, SIGHUP}) sigaddset(&signals, signal);
  ::sigprocmask(SIG_BLOCK, &signals, nullptr);
  return Descriptor(::signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK));
}

bool told_to_end(int signals) {
  signalfd_siginfo signal{};
  while (::read(signals, &signal, sizeof signal) == sizeof signal) {
    if (signal.ssi_signo != SIGHUP) return true;
  }
  return false;
}

}  // namespace

int keep_broker(const std::string& endpoint, std::vector<std::string> argv) {
  const Descriptor signals = take_signals();
  const KeeperLock lock(keeper_lock(endpoint));
  detail::Supervisor supervisor;
  supervisor.set_grace(kGrace);
  supervisor.keep_alive({true, kMostQuickDeaths});
  argv.insert(argv.end(), {"--lifeline", std::to_string(detail::Supervisor::kLifelineDescriptor)});
  supervisor.start(std::move(argv));
  supervisor.run();
  while (true) {
    std::array<pollfd, 2> items{
        {{signals.get(), POLLIN, 0}, {supervisor.over_descriptor(), POLLIN, 0}}};
    ::poll(items.data(), items.size(), -1);
    if (told_to_end(signals.get())) return 0;
    if (items[1].revents != 0) break;
  }
  if (supervisor.ended_well()) return 0;
  const std::string how = supervisor.obituary();  // what it said itself stands above already
  fmt::print(stderr, "muster: the broker is not started again: {}\n", how.substr(0, how.find(':')));
  return 2;
}

}  // namespace muster
