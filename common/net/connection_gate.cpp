#include "common/net/connection_gate.hpp"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <string_view>

#include "common/net/zmtp_scanner.hpp"
#include "common/protocol/limits.hpp"

// The thread sanitizer keeps books of descriptors: it must see what happens to them.
#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define MUSTER_THREAD_SANITIZER 1
extern "C" int __interceptor_accept4(int, sockaddr*, socklen_t*, int);  // NOLINT: its name
extern "C" ssize_t __interceptor_recv(int, void*, std::size_t, int);    // NOLINT: its name
extern "C" int __interceptor_close(int);                                // NOLINT: its name
#endif
#endif

namespace muster::gate {
namespace {

// Descriptors that connections can have; more than a Router's sockets could serve.
constexpr int kMostDescriptors = 65'536;

// Of all peers together: two of the largest payloads.
constexpr std::uint64_t kMostUnfinishedBytes = 2 * limits::kMaxPayloadBytes;

struct Connection {
  bool has_ended = false;
  ZmtpScanner scanner;
  std::atomic<std::uint64_t> undelivered_bytes{0};
  std::uint64_t counted_bytes = 0;  // of unfinished messages, in `unfinished_bytes`
};

// Of the connections that came through accept4, by descriptor. One thread uses an entry: libzmq
// accepts, reads and closes a connection in its I/O thread.
std::array<std::atomic<Connection*>, kMostDescriptors> connections{};
std::atomic<int> ceiling{kMostDescriptors};
std::atomic<std::uint64_t> unfinished_bytes{0};  // of all connections

// Given up for a moment when there is no other descriptor left to refuse a connection with.
std::atomic<int> spare{-1};

struct Counts {
  std::atomic<std::uint64_t> full{0};
  std::atomic<std::uint64_t> foreign{0};
  std::atomic<std::uint64_t> claiming{0};
  std::atomic<std::uint64_t> endless{0};
};
Counts counts;

#ifdef MUSTER_THREAD_SANITIZER
int system_accept(int listener, sockaddr* address, socklen_t* length, int flags) {
  return __interceptor_accept4(listener, address, length, flags);
}
ssize_t system_receive(int socket, void* buffer, std::size_t size, int flags) {
  return __interceptor_recv(socket, buffer, size, flags);
}
int system_close(int descriptor) { return __interceptor_close(descriptor); }
#else
int system_accept(int listener, sockaddr* address, socklen_t* length, int flags) {
  return static_cast<int>(syscall(SYS_accept4, listener, address, length, flags));
}
ssize_t system_receive(int socket, void* buffer, std::size_t size, int flags) {
  return syscall(SYS_recvfrom, socket, buffer, size, flags, nullptr, nullptr);
}
int system_close(int descriptor) { return static_cast<int>(syscall(SYS_close, descriptor)); }
#endif

Connection* find(int descriptor) {
  if (descriptor < 0 || descriptor >= kMostDescriptors) return nullptr;
  return connections[static_cast<std::size_t>(descriptor)].load(std::memory_order_acquire);
}

void count_unfinished(Connection& connection, std::uint64_t bytes) {
  unfinished_bytes += bytes - connection.counted_bytes;  // wraps around when it becomes less
  connection.counted_bytes = bytes;
}

void forget(int descriptor) {
  if (descriptor < 0 || descriptor >= kMostDescriptors) return;
  Connection* connection = connections[static_cast<std::size_t>(descriptor)].exchange(nullptr);
  if (connection == nullptr) return;
  count_unfinished(*connection, 0);
  delete connection;
}

// A peer that waits is accepted and let go; otherwise the listener stays readable and libzmq's
// thread never sleeps again.
void turn_away(int listener) {
  const int given_up = spare.exchange(-1);
  if (given_up >= 0) system_close(given_up);
  const int made = system_accept(listener, nullptr, nullptr, SOCK_CLOEXEC);
  if (made >= 0) system_close(made);
  if (given_up >= 0) spare = open("/dev/null", O_RDONLY | O_CLOEXEC);
}

bool may_go_on(Connection& connection, std::string_view bytes) {
  switch (connection.scanner.read(bytes)) {
    case ZmtpScanner::Verdict::foreign:
      ++counts.foreign;
      return false;
    case ZmtpScanner::Verdict::claims_id:
      ++counts.claiming;
      return false;
    case ZmtpScanner::Verdict::endless:
      ++counts.endless;
      return false;
    case ZmtpScanner::Verdict::fine:
      break;
  }
  const bool opaque = connection.scanner.is_encrypted();
  if (opaque) connection.undelivered_bytes += bytes.size();
  const std::uint64_t bytes_held =
      opaque ? connection.undelivered_bytes.load() : connection.scanner.unfinished_bytes();
  count_unfinished(connection, bytes_held);
  // Many large messages at a time: those that are about to begin are not the ones that end.
  const bool is_large = bytes_held > ZmtpScanner::kMaxUnfinishedBytes;
  const bool too_much = opaque && bytes_held > limits::kMaxPayloadBytes * 2;
  if (!too_much && !(is_large && unfinished_bytes > kMostUnfinishedBytes)) return true;
  ++counts.endless;
  return false;
}

}  // namespace

void set_ceiling(int descriptor) {
  ceiling = std::min(descriptor, kMostDescriptors);
  if (spare < 0) spare = open("/dev/null", O_RDONLY | O_CLOEXEC);
}

void delivered(int descriptor) {
  if (Connection* connection = find(descriptor)) connection->undelivered_bytes = 0;
}

int accept_other(int listener, int flags) {
  return system_accept(listener, nullptr, nullptr, flags);
}

Refused refused() { return {counts.full, counts.foreign, counts.claiming, counts.endless}; }

int accept(int listener, sockaddr* address, socklen_t* length, int flags) {
  const int made = system_accept(listener, address, length, flags);
  if (made >= 0 && made < ceiling) {
    forget(made);
    connections[static_cast<std::size_t>(made)].store(new Connection, std::memory_order_release);
    return made;
  }
  const bool out_of_descriptors =
      made < 0 && (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM);
  if (made < 0 && !out_of_descriptors) return made;
  ++counts.full;
  if (made >= 0) {
    system_close(made);
  } else {
    turn_away(listener);
  }
  errno = ECONNABORTED;
  return -1;
}

ssize_t receive(int socket, void* buffer, std::size_t size, int flags) {
  const ssize_t got = system_receive(socket, buffer, size, flags);
  if (got <= 0 || (flags & (MSG_PEEK | MSG_TRUNC)) != 0) return got;
  Connection* connection = find(socket);
  if (connection == nullptr) return got;
  const std::string_view bytes(static_cast<const char*>(buffer), static_cast<std::size_t>(got));
  connection->has_ended = connection->has_ended || !may_go_on(*connection, bytes);
  return connection->has_ended ? 0 : got;
}

int close(int descriptor) {
  forget(descriptor);
  return system_close(descriptor);
}

}  // namespace muster::gate
