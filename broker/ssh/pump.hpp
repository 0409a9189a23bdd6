// Moves the bytes of one ssh connection: every forwarded connection to a Unix socket here and back,
// and the streams of the command that runs. One poll(2) waits for everything.
//
// Owner: LibsshRemote. Threads: the session's.
//
// Memory per forwarded connection is bounded by libssh's window (at most 2.5 MiB, and only while
// this side does not read): when the Unix socket is full, bytes stay in libssh's buffer, which then
// does not grow the window. It holds nothing of its own for a connection that flows or is idle.
#pragma once

#include <libssh/callbacks.h>
#include <libssh/libssh.h>

#include <cstdint>
#include <list>
#include <memory>
#include <string>
#include <vector>

#include "broker/ssh/remote_command.hpp"
#include "broker/ssh/ssh_session.hpp"
#include "broker/ssh/waker.hpp"

namespace muster {

class Pump {
 public:
  Pump(SshSession& session, Waker& waker, TunnelCounters& counters);
  ~Pump();
  Pump(const Pump&) = delete;
  Pump& operator=(const Pump&) = delete;

  // Connections to the node's `port` go to `socket_path`, while carry() runs; those that come
  // earlier wait for it.
  void forward(std::uint16_t port, const std::string& socket_path);

  // Runs `command` to its end. Throws NodeError `step` when the
  // session breaks or `deadline` is over, "serve" when it is cut.
  void run(RemoteCommand& command, const char* step, Deadline deadline);

  // Carries forwarded connections until `command` is over (nullptr: until the session is).
  // Waker::finish ends the command's input. Throws NodeError "serve".
  void carry(RemoteCommand* command);

 private:
  class Stream;

  static int on_message(ssh_session session, ssh_message message, void* user);
  bool accept(ssh_message message);
  bool make_room();
  void start_waiting();
  void turn(RemoteCommand* command, Deadline deadline, const char* step);
  void poll_all(RemoteCommand* command, Deadline deadline);
  void send_from_streams();
  void sweep();
  bool may_send() const;

  SshSession& session_;
  Waker& waker_;
  TunnelCounters& counters_;
  std::uint16_t port_ = 0;
  std::string socket_path_;
  bool carrying_ = false;
  bool stalled_ = false;  // libssh took nothing: wait for the node
  Deadline keepalive_{};
  std::list<std::unique_ptr<Stream>> streams_;  // the oldest first; which one sends first rotates
  std::size_t first_ = 0;
  std::vector<char> buffer_;
};

}  // namespace muster
