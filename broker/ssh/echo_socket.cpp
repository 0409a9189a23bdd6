#include "broker/ssh/echo_socket.hpp"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <array>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "broker/ssh/remote.hpp"
#include "common/net/connection_gate.hpp"

namespace muster {
namespace {

constexpr int kPatienceMilliseconds = 10'000;

}  // namespace

EchoSocket::EchoSocket()
    : folder_((std::filesystem::temp_directory_path() / "muster-doctor-XXXXXX").string()) {
  std::array<int, 2> ends{-1, -1};
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const bool made = ::mkdtemp(folder_.data()) != nullptr && ::pipe2(ends.data(), O_CLOEXEC) == 0;
  path_ = folder_ + "/echo";
  end_read_ = Descriptor(ends[0]);
  end_write_ = Descriptor(ends[1]);
  listener_ = Descriptor(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (made && path_.size() < sizeof address.sun_path) {
    std::memcpy(address.sun_path, path_.c_str(), path_.size() + 1);
    if (::bind(listener_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0 &&
        ::listen(listener_.get(), 4) == 0) {
      thread_ = std::thread([this] { answer(); });
      return;
    }
  }
  throw NodeError(NodeError::Kind::lasting, "forward",
                  "cannot make a socket in the temporary folder of this machine: " + folder_);
}

EchoSocket::~EchoSocket() {
  end_write_.reset();
  if (thread_.joinable()) thread_.join();
  std::error_code ignored;
  std::filesystem::remove_all(folder_, ignored);
}

void EchoSocket::answer() const {
  while (true) {
    std::array<pollfd, 2> events{pollfd{listener_.get(), POLLIN, 0},
                                 pollfd{end_read_.get(), POLLIN, 0}};
    if (::poll(events.data(), events.size(), -1) < 0) continue;
    if (events[1].revents != 0) return;
    const Descriptor peer(gate::accept_other(listener_.get(), SOCK_CLOEXEC));
    std::array<char, 256> word{};
    std::array<pollfd, 2> input{pollfd{peer.get(), POLLIN, 0}, pollfd{end_read_.get(), POLLIN, 0}};
    if (::poll(input.data(), input.size(), kPatienceMilliseconds) <= 0) continue;
    const ssize_t got = ::recv(peer.get(), word.data(), word.size(), MSG_DONTWAIT);
    if (got > 0) ::send(peer.get(), word.data(), static_cast<std::size_t>(got), MSG_NOSIGNAL);
  }
}

}  // namespace muster
