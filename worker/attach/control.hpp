// The control socket of a worker that `muster-worker attach` started: through it a broker that
// comes back hands over the new end of its tunnel, and the worker hears when that tunnel is gone.
//
// Messages (one per packet of a SOCK_SEQPACKET Unix socket in a folder of mode 0700):
//   attach -> worker:  "attach JSON" (attach_config.hpp), "end SECONDS", "who"
//   worker -> attach:  "ready PID", "replaced REASON" (it drains and ends), "log LINE", "taken"
//
// Owned by main, used on the loop's thread.
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "common/net/transport.hpp"
#include "common/system/descriptor.hpp"
#include "common/time.hpp"
#include "worker/attach/attach_config.hpp"
#include "worker/system/watch_set.hpp"

namespace muster {

class Control {
 public:
  // `listener`: the listening socket. Throws std::system_error.
  explicit Control(Descriptor listener);
  ~Control();
  Control(const Control&) = delete;
  Control& operator=(const Control&) = delete;

  // A broker is there: connect to it with this login, believe nobody without this proof.
  struct Attached {
    std::string endpoint;
    Login login;
    std::string proof;
  };
  // The tunnel is gone, and its port on this machine may be anybody's: close the connection.
  struct Lost {};
  // Drain for so long, then end.
  struct End {
    std::chrono::seconds patience;
  };
  // No broker came back in time: end.
  struct Orphaned {};
  using Event = std::variant<Attached, Lost, End, Orphaned>;

  // What happened since the last call, in order. Never blocks.
  std::vector<Event> poll(Time now);
  Time next_deadline() const { return orphaned_at_; }
  int descriptor() const { return watches_.descriptor(); }  // readable: poll() has something to do

  // To the attach process, if there is one that reads.
  void log(std::string_view line);

 private:
  struct Connection {
    Watched socket;
    bool gone = false;
  };
  void accept_all();
  void read(Connection& connection, Time now, std::vector<Event>& events);
  void handle(Connection& connection, std::string_view packet, std::vector<Event>& events);
  void attach(Connection& connection, std::string_view json, std::vector<Event>& events);
  void lose(Time now, std::vector<Event>& events);
  static void send(const Connection& connection, std::string_view packet);

  Descriptor listener_;
  WatchSet watches_;
  std::vector<std::unique_ptr<Connection>> connections_;
  Connection* current_ = nullptr;  // the one whose broker this worker obeys
  std::string settings_;           // of the first attach: what this worker is
  std::chrono::seconds grace_{600};
  Time orphaned_at_ = kNever;
};

// Makes the worker's own log lines visible: to the file that is its standard error, which is kept
// small, and through `control` (may be null; outlives the logger).
void install_attached_logger(Control* control);

// --- Both sides ----------------------------------------------------------------------------------

// The largest packet: an environment and labels of any sensible size.
inline constexpr std::size_t kMaxControlPacket = std::size_t{1} << 20;
// How long a worker that is replaced may go on with what it runs.
inline constexpr std::chrono::seconds kReplacedDrain{10};

// Whether the other side of a connected Unix socket is a process of our own user.
// The process that listens at the other end of a connection that was made: 0, nobody can say.
int listener_of(int socket);
bool is_own_user(int socket);
// The next packet, if one waits. `flags`: of recv(2).
enum class PacketResult { packet, none, end };
PacketResult receive_packet(int socket, std::string& packet, int flags);
// Lets packets of kMaxControlPacket through.
void widen(int socket);

}  // namespace muster
