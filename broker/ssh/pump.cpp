#include "broker/ssh/pump.hpp"

#include <fmt/format.h>
#include <libssh/server.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace muster {
namespace {

using Clock = std::chrono::steady_clock;

// What one connection may send before the next has its turn, and all of them before the node is
// heard again. It bounds what waits inside libssh.
constexpr std::size_t kChunkBytes = 64 * 1024;
constexpr std::size_t kRoundBytes = 4 * kChunkBytes;

// One worker needs one connection; the rest is room for a worker that comes back while its old
// connection is not over yet, and for strangers.
constexpr std::size_t kMaxStreams = 64;
// Open and closing ones together.
constexpr std::size_t kMaxStreamObjects = 4 * kMaxStreams;
// A peer that was not admitted gets less than this from the broker: a greeting (64 bytes) and at
// most one handshake command of CURVE (170 bytes).
constexpr std::uint64_t kAdmittedBytes = 256;

// Routers forget connections that are silent for a minute or two; death is found by TCP itself.
constexpr std::chrono::seconds kKeepalive{15};

Descriptor connect_unix(const std::string& path) {
  sockaddr_un where{};
  where.sun_family = AF_UNIX;
  if (path.size() >= sizeof where.sun_path) return {};
  std::memcpy(where.sun_path, path.c_str(), path.size() + 1);
  Descriptor made(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (made && connect(made.get(), reinterpret_cast<sockaddr*>(&where), sizeof where) != 0) {
    made.reset();
  }
  return made;
}

}  // namespace

// One forwarded connection. Without a socket it waits: what it sends stays in libssh's buffer.
class Pump::Stream {
 public:
  Stream(ssh_channel channel, int port, TunnelCounters& counters)
      : channel_(channel), port_(port), counters_(counters) {
    ssh_callbacks_init(&callbacks_);
    callbacks_.userdata = this;
    callbacks_.channel_data_function = on_data;
    callbacks_.channel_eof_function = on_eof;
    callbacks_.channel_close_function = on_close;
    ssh_set_channel_callbacks(channel_, &callbacks_);
  }
  ~Stream() { discard_channel(channel_, &callbacks_); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  void start(Descriptor socket) {
    socket_ = std::move(socket);
    blocked_ = true;  // until deliver() has passed on what came meanwhile
  }
  bool waits() const { return !socket_; }
  int port() const { return port_; }
  int socket() const { return socket_.get(); }
  bool dead() const { return dead_; }
  bool admitted() const { return sent_bytes_ >= kAdmittedBytes; }
  void kill() { dead_ = true; }

  bool wants_to_send() const {
    return !local_over_ && !remote_closed_ && ssh_channel_window_size(channel_) > 0;
  }
  short wanted_events(bool may_send) const {
    return static_cast<short>((may_send && unsent_.empty() && wants_to_send() ? POLLIN : 0) |
                              (blocked_ ? POLLOUT : 0));
  }
  void saw(short events) {
    readable_ = (events & (POLLIN | POLLHUP | POLLERR)) != 0;
    if ((events & (POLLOUT | POLLHUP | POLLERR)) != 0 && blocked_) deliver();
    hung_up_ = (events & POLLHUP) != 0;
  }
  bool ready_to_send() const {
    return !dead_ && (readable_ || !unsent_.empty()) && wants_to_send();
  }

  // Sends what the socket has, at most `buffer` and the window; returns how much. `stalled`: libssh
  // took less.
  std::size_t send(std::vector<char>& buffer, bool& stalled);
  // Acts on what the callbacks saw, outside of libssh.
  void settle();

 private:
  static int on_data(ssh_session, ssh_channel, void* data, std::uint32_t size, int is_error,
                     void* user);
  static void on_eof(ssh_session, ssh_channel, void* user) {
    static_cast<Stream*>(user)->remote_over_ = true;
  }
  static void on_close(ssh_session, ssh_channel, void* user) {
    static_cast<Stream*>(user)->remote_closed_ = true;
  }
  // Writes to the socket; less than `size`: it is full, or gone (dead()).
  std::size_t write_local(const char* data, std::size_t size);
  void deliver();
  std::size_t pass_on(const char* data, std::size_t size, bool& stalled);

  ssh_channel channel_;
  int port_;
  Descriptor socket_;
  TunnelCounters& counters_;
  ssh_channel_callbacks_struct callbacks_{};
  std::uint64_t sent_bytes_ = 0;
  std::string unsent_;         // read from the socket, refused by libssh (a key exchange)
  std::vector<char> taken_;    // from libssh's buffer while the socket was full
  std::size_t delivered_ = 0;  // of taken_
  bool blocked_ = false;       // the socket is full
  bool readable_ = false;
  bool hung_up_ = false;
  bool local_over_ = false;
  bool remote_over_ = false;
  bool remote_closed_ = false;
  bool told_local_ = false;
  bool dead_ = false;
};

int Pump::Stream::on_data(ssh_session, ssh_channel, void* data, std::uint32_t size, int,
                          void* user) {
  auto* self = static_cast<Stream*>(user);
  if (self->blocked_ || self->waits())
    return 0;  // stays with libssh, which keeps the window as it is
  const std::size_t written = self->write_local(static_cast<const char*>(data), size);
  if (self->dead_) return static_cast<int>(size);
  self->blocked_ = written < size;
  return static_cast<int>(written);
}

std::size_t Pump::Stream::write_local(const char* data, std::size_t size) {
  std::size_t done = 0;
  while (!dead_ && done < size) {
    const ssize_t sent =
        ::send(socket_.get(), data + done, size - done, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent >= 0) {
      done += static_cast<std::size_t>(sent);
    } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
      break;
    } else if (errno != EINTR) {
      dead_ = true;
    }
  }
  counters_.bytes_in.fetch_add(done, std::memory_order_relaxed);
  return done;
}

void Pump::Stream::deliver() {
  for (;;) {
    delivered_ += write_local(taken_.data() + delivered_, taken_.size() - delivered_);
    if (dead_ || delivered_ < taken_.size()) return;
    std::vector<char>().swap(taken_);
    delivered_ = 0;
    // All of it at once: libssh grows the window at each read, whatever is left in its buffer.
    const int left = ssh_channel_poll(channel_, 0);
    if (left <= 0) break;
    taken_.resize(static_cast<std::size_t>(left));
    const int got =
        ssh_channel_read_timeout(channel_, taken_.data(), static_cast<std::uint32_t>(left), 0, 0);
    taken_.resize(static_cast<std::size_t>(std::max(got, 0)));
  }
  blocked_ = false;
}

std::size_t Pump::Stream::send(std::vector<char>& buffer, bool& stalled) {
  if (!unsent_.empty()) {
    const std::string data = std::exchange(unsent_, {});
    return pass_on(data.data(), data.size(), stalled);
  }
  readable_ = false;
  const std::size_t most = std::min(buffer.size(), std::size_t{ssh_channel_window_size(channel_)});
  const ssize_t got = recv(socket_.get(), buffer.data(), most, MSG_DONTWAIT);
  if (got > 0) return pass_on(buffer.data(), static_cast<std::size_t>(got), stalled);
  if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) return 0;
  local_over_ = true;
  // Both directions are over: nobody reads what the node may still send.
  if (got < 0 || hung_up_) dead_ = true;
  if (!dead_) ssh_channel_send_eof(channel_);
  return 0;
}

std::size_t Pump::Stream::pass_on(const char* data, std::size_t size, bool& stalled) {
  const int sent = ssh_channel_write(channel_, data, static_cast<std::uint32_t>(size));
  if (sent < 0) {
    dead_ = true;
    return 0;
  }
  const auto count = static_cast<std::size_t>(sent);
  if (count < size) {
    unsent_.assign(data + count, size - count);
    stalled = true;
  }
  sent_bytes_ += count;
  counters_.bytes_out.fetch_add(count, std::memory_order_relaxed);
  return count;
}

void Pump::Stream::settle() {
  if (waits() && remote_closed_) dead_ = true;
  if (waits()) return;
  if (blocked_ || dead_) return;
  if (remote_over_ && !told_local_) {
    shutdown(socket_.get(), SHUT_WR);
    told_local_ = true;
  }
  if (remote_closed_ || (told_local_ && local_over_)) dead_ = true;
}

Pump::Pump(SshSession& session, Waker& waker, TunnelCounters& counters)
    : session_(session), waker_(waker), counters_(counters) {
  ssh_set_message_callback(session.get(), on_message, this);
}

Pump::~Pump() { ssh_set_message_callback(session_.get(), nullptr, nullptr); }

void Pump::forward(std::uint16_t port, const std::string& socket_path) {
  port_ = port;
  socket_path_ = socket_path;
  std::erase_if(streams_, [&](const auto& stream) { return stream->port() != port_; });
}

int Pump::on_message(ssh_session, ssh_message message, void* user) {
  const bool forwarded = ssh_message_type(message) == SSH_REQUEST_CHANNEL_OPEN &&
                         ssh_message_subtype(message) == SSH_CHANNEL_FORWARDED_TCPIP;
  return forwarded && static_cast<Pump*>(user)->accept(message) ? 0 : 1;  // 1: libssh refuses it
}

bool Pump::accept(ssh_message message) {
  // The first connection may come with the answer that says which port it is.
  const int port = ssh_message_channel_request_open_destination_port(message);
  if (port_ != 0 && port != port_) return false;
  if (!make_room()) return false;
  Descriptor socket;
  if (carrying_ && !(socket = connect_unix(socket_path_))) return false;
  const ssh_channel channel = ssh_message_channel_request_open_reply_accept(message);
  if (channel == nullptr) return false;
  streams_.push_back(std::make_unique<Stream>(channel, port, counters_));
  if (socket) streams_.back()->start(std::move(socket));
  return true;
}

void Pump::start_waiting() {
  for (const auto& stream : streams_) {
    Descriptor socket = connect_unix(socket_path_);
    if (socket) {
      stream->start(std::move(socket));
    } else {
      stream->kill();
    }
  }
}

bool Pump::make_room() {
  if (streams_.size() >= kMaxStreamObjects) return false;
  const auto alive = std::count_if(streams_.begin(), streams_.end(),
                                   [](const auto& stream) { return !stream->dead(); });
  if (static_cast<std::size_t>(alive) < kMaxStreams) return true;
  for (const auto& stream : streams_) {
    if (stream->dead() || stream->admitted()) continue;
    stream->kill();
    return true;
  }
  return false;
}

void Pump::run(RemoteCommand& command, const char* step, Deadline deadline) {
  while (!command.over()) {
    if (Clock::now() >= deadline) {
      throw NodeError(NodeError::Kind::passing, step,
                      fmt::format("a command on {} took too long; check the machine's load",
                                  session_.target().host));
    }
    turn(&command, deadline, step);
  }
}

void Pump::carry(RemoteCommand* command) {
  struct Carrying {
    Pump& pump;
    ~Carrying() {
      pump.carrying_ = false;
      pump.streams_.clear();
      std::vector<char>().swap(pump.buffer_);
    }
  } const carrying{*this};
  carrying_ = true;
  keepalive_ = Clock::now() + kKeepalive;
  buffer_.resize(kChunkBytes);
  start_waiting();
  while (command == nullptr || !command->over()) {
    if (const auto words = waker_.take_last_words(); words && command != nullptr) {
      command->send(*words);
      command->end_input();
    }
    turn(command, Deadline::max(), "serve");
  }
}

bool Pump::may_send() const {
  return !stalled_ && (ssh_get_status(session_.get()) & SSH_WRITE_PENDING) == 0;
}

void Pump::turn(RemoteCommand* command, Deadline deadline, const char* step) {
  poll_all(command, deadline);
  waker_.throw_if_cut();
  stalled_ = false;
  if (!session_.turn()) throw session_.broken(step);
  if (command != nullptr && may_send() && !command->write_some()) throw session_.broken(step);
  if (may_send()) send_from_streams();
  sweep();
  if (carrying_ && Clock::now() >= keepalive_) {
    keepalive_ = Clock::now() + kKeepalive;
    if (ssh_send_ignore(session_.get(), "") != SSH_OK) throw session_.broken(step);
  }
}

void Pump::poll_all(RemoteCommand* command, Deadline deadline) {
  const bool sending = may_send();
  const bool full = (ssh_get_status(session_.get()) & SSH_WRITE_PENDING) != 0;
  const short wanted = static_cast<short>(POLLIN | (full ? POLLOUT : 0));
  std::vector<pollfd> polled{{ssh_get_fd(session_.get()), wanted, 0},
                             {waker_.descriptor(), POLLIN, 0}};
  for (const auto& stream : streams_) {
    const short events = stream->wanted_events(sending);
    // Without a wish it is not polled at all: a hang-up would be reported over and over.
    polled.push_back({events == 0 ? -1 : stream->socket(), events, 0});
  }
  if (carrying_) deadline = std::min(deadline, keepalive_);
  if (command != nullptr && command->deadline())
    deadline = std::min(deadline, *command->deadline());
  const bool at_once = sending && command != nullptr && command->wants_to_write();
  int ready = 0;
  do {
    ready = poll(polled.data(), polled.size(), at_once ? 0 : poll_timeout(deadline));
  } while (ready < 0 && errno == EINTR);
  if (polled[1].revents != 0) waker_.drain();
  auto row = polled.begin() + 2;
  for (const auto& stream : streams_) {
    stream->saw(row->revents);
    ++row;
  }
}

void Pump::send_from_streams() {
  std::size_t sent = 0;
  const std::size_t count = streams_.size();
  if (count == 0) return;
  first_ = (first_ + 1) % count;
  auto stream = std::next(streams_.begin(), static_cast<std::ptrdiff_t>(first_));
  for (std::size_t index = 0; index < count && sent < kRoundBytes && !stalled_; ++index) {
    if ((*stream)->ready_to_send()) sent += (*stream)->send(buffer_, stalled_);
    if (++stream == streams_.end()) stream = streams_.begin();
  }
}

void Pump::sweep() {
  for (const auto& stream : streams_) stream->settle();
  streams_.remove_if([](const auto& stream) { return stream->dead(); });
}

}  // namespace muster
