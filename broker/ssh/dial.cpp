#include "broker/ssh/dial.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <memory>
#include <thread>
#include <utility>

#include "broker/ssh/remote.hpp"
#include "common/system/descriptor_limit.hpp"
#include "common/system/pointers.hpp"
#include "common/system/process_end.hpp"

namespace muster {
namespace {

using Clock = std::chrono::steady_clock;

// A next address is tried beside the earlier ones after this long (RFC 8305, section 8).
constexpr std::chrono::milliseconds kNextAddress{250};
// A peer that acknowledges nothing for this long is gone. Shorter would end a tunnel for a pause of
// a wireless network; longer would keep tasks waiting for a node that is not there.
constexpr unsigned kUserTimeoutMilliseconds = 15'000;
constexpr int kProxyComplaintBytes = 1024;
constexpr std::chrono::seconds kKillPatience{1};

[[noreturn]] void fail(NodeError::Kind kind, const char* step, const std::string& text) {
  throw NodeError(kind, step, text);
}

// The answer of a resolver that may take longer than anybody waits for it.
struct Lookup {
  Descriptor done{eventfd(0, EFD_CLOEXEC)};  // wakes the thread that waits
  std::atomic<bool> published{false};        // what is below is there
  int status = 0;
  std::vector<DialAddress> addresses;

  void run(const std::string& host, std::uint16_t port) {
    addrinfo hints{};
    hints.ai_socktype = SOCK_STREAM;
    hints.ai_flags = AI_ADDRCONFIG | AI_NUMERICSERV;
    addrinfo* list = nullptr;
    status = getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &list);
    for (const addrinfo* entry = list; entry != nullptr; entry = entry->ai_next) {
      const char* bytes = reinterpret_cast<const char*>(entry->ai_addr);
      char text[NI_MAXHOST] = "?";
      getnameinfo(entry->ai_addr, entry->ai_addrlen, text, sizeof text, nullptr, 0, NI_NUMERICHOST);
      addresses.push_back({entry->ai_family, {bytes, bytes + entry->ai_addrlen}, text});
    }
    if (list != nullptr) freeaddrinfo(list);
    published.store(true, std::memory_order_release);
    const std::uint64_t one = 1;
    [[maybe_unused]] const ssize_t written = write(done.get(), &one, sizeof one);
  }
};

// IPv6 and IPv4 in turn, starting with what the system prefers (RFC 8305, section 4).
std::vector<DialAddress> alternate(const std::vector<DialAddress>& addresses) {
  std::vector<DialAddress> first;
  std::vector<DialAddress> others;
  for (const DialAddress& address : addresses) {
    (address.family == addresses.front().family ? first : others).push_back(address);
  }
  std::vector<DialAddress> mixed;
  for (std::size_t index = 0; index < std::max(first.size(), others.size()); ++index) {
    if (index < first.size()) mixed.push_back(first[index]);
    if (index < others.size()) mixed.push_back(others[index]);
  }
  return mixed;
}

// A connection attempt that has begun; empty and errno when it failed at once.
Descriptor begin(const DialAddress& address) {
  Descriptor made(socket(address.family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!made) return made;
  const auto* where = reinterpret_cast<const sockaddr*>(address.bytes.data());
  const auto size = static_cast<socklen_t>(address.bytes.size());
  if (connect(made.get(), where, size) != 0 && errno != EINPROGRESS) {
    const int error = errno;
    made.reset();
    errno = error;
  }
  return made;
}

int outcome(int socket) {
  int error = 0;
  socklen_t size = sizeof error;
  if (getsockopt(socket, SOL_SOCKET, SO_ERROR, &error, &size) != 0) return errno;
  return error;
}

// Waits until one attempt is decided or `deadline`; returns the index of a connected one, or -1.
// Decided failures leave the list, their reason goes to `reason`.
int sort_out(std::vector<std::pair<Descriptor, std::string>>& attempts, Waker& waker,
             Deadline deadline, std::string& reason) {
  std::vector<pollfd> polled;
  for (const auto& [socket, text] : attempts) polled.push_back({socket.get(), POLLOUT, 0});
  polled.push_back({waker.descriptor(), POLLIN, 0});
  poll(polled.data(), polled.size(), poll_timeout(deadline));
  waker.throw_if_cut();
  if (polled.back().revents != 0) waker.drain();
  for (std::size_t index = attempts.size(); index-- > 0;) {
    if (polled[index].revents == 0) continue;
    const int error = outcome(attempts[index].first.get());
    if (error == 0) return static_cast<int>(index);
    reason = fmt::format("{}: {}", attempts[index].second, std::strerror(error));
    attempts.erase(attempts.begin() + static_cast<std::ptrdiff_t>(index));
  }
  return -1;
}

// posix_spawn cannot do it in the child.
void give_back_descriptor_limit(pid_t child) {
  const auto& limit = original_descriptor_limit();
  if (limit) ::prlimit(child, RLIMIT_NOFILE, &*limit, nullptr);
}

}  // namespace

std::vector<DialAddress> resolve(const std::string& host, std::uint16_t port, Waker& waker,
                                 Deadline deadline) {
  // A resolver cannot be interrupted, so it has a thread that nobody waits for.
  const auto lookup = std::make_shared<Lookup>();
  std::thread([lookup, host, port] { lookup->run(host, port); }).detach();
  const bool woken = waker.wait(lookup->done.get(), POLLIN, deadline);
  if (!woken || !lookup->published.load(std::memory_order_acquire)) {
    fail(NodeError::Kind::passing, "resolve",
         fmt::format("'{}': the name service does not answer; check this machine's network and "
                     "/etc/resolv.conf",
                     host));
  }
  if (lookup->status != 0 || lookup->addresses.empty()) {
    const bool passing = lookup->status == EAI_AGAIN || lookup->status == EAI_SYSTEM;
    fail(passing ? NodeError::Kind::passing : NodeError::Kind::lasting, "resolve",
         fmt::format("cannot resolve '{}': {}; check the spelling of `address`, /etc/hosts and DNS",
                     host, gai_strerror(lookup->status)));
  }
  return alternate(lookup->addresses);
}

Descriptor dial(const std::vector<DialAddress>& addresses, const std::string& host,
                std::uint16_t port, Waker& waker, Deadline deadline) {
  std::vector<std::pair<Descriptor, std::string>> attempts;
  std::string reason;
  std::size_t next = 0;
  while (Clock::now() < deadline) {
    waker.throw_if_cut();
    if (next < addresses.size()) {
      const DialAddress& address = addresses[next++];
      Descriptor made = begin(address);
      if (made) {
        attempts.emplace_back(std::move(made), address.text);
      } else {
        reason = fmt::format("{}: {}", address.text, std::strerror(errno));
      }
    }
    if (attempts.empty() && next == addresses.size()) break;
    const Deadline turn = next < addresses.size() ? Clock::now() + kNextAddress : deadline;
    const int connected = sort_out(attempts, waker, std::min(turn, deadline), reason);
    if (connected >= 0) {
      Descriptor socket = std::move(attempts[static_cast<std::size_t>(connected)].first);
      tune_tcp(socket.get());
      return socket;
    }
  }
  if (!attempts.empty()) reason = fmt::format("{}: no answer in time", attempts.front().second);
  fail(NodeError::Kind::passing, "connect",
       fmt::format("cannot connect to {}, port {}: {}; check that the machine is up, that its sshd "
                   "listens there and that no firewall is between",
                   host, port, reason));
}

void tune_tcp(int socket) {
  const int on = 1;
  setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  setsockopt(socket, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
  setsockopt(socket, IPPROTO_TCP, TCP_USER_TIMEOUT, &kUserTimeoutMilliseconds,
             sizeof kUserTimeoutMilliseconds);
}

Descriptor ProxyCommand::start(const std::vector<std::string>& argv) {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) {
    fail(NodeError::Kind::passing, "connect",
         fmt::format("cannot make a socket: {}", std::strerror(errno)));
  }
  Descriptor ours(ends[0]);
  const Descriptor theirs(ends[1]);
  errors_.reset(memfd_create("proxy", MFD_CLOEXEC));
  const std::vector<char*> words = pointers_to(argv);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, theirs.get(), STDIN_FILENO);
  posix_spawn_file_actions_adddup2(&actions, theirs.get(), STDOUT_FILENO);
  if (errors_) posix_spawn_file_actions_adddup2(&actions, errors_.get(), STDERR_FILENO);
  const int error = posix_spawnp(&child_, words[0], &actions, nullptr, words.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (error == 0) give_back_descriptor_limit(child_);
  if (error != 0) {
    child_ = 0;
    fail(NodeError::Kind::lasting, "connect",
         fmt::format("cannot run '{}', which is to reach the jump host: {}; install the OpenSSH "
                     "client",
                     argv.front(), std::strerror(error)));
  }
  return ours;
}

ProxyCommand::~ProxyCommand() {
  if (child_ <= 0) return;
  kill(child_, SIGKILL);  // it holds nothing but the connection
  await_end(child_, kKillPatience);
}

std::string ProxyCommand::complaint() const {
  struct stat about {};
  if (!errors_ || fstat(errors_.get(), &about) != 0) return {};
  const off_t begin = std::max<off_t>(0, about.st_size - kProxyComplaintBytes);
  std::string text(static_cast<std::size_t>(about.st_size - begin), '\0');
  const ssize_t got = pread(errors_.get(), text.data(), text.size(), begin);
  text.resize(static_cast<std::size_t>(std::max<ssize_t>(got, 0)));
  std::erase(text, '\r');
  while (!text.empty() && text.back() == '\n') text.pop_back();
  std::replace(text.begin(), text.end(), '\n', ';');
  return text;
}

}  // namespace muster
