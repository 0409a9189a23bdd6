#include "broker/ssh/libssh_remote.hpp"

#include <fmt/format.h>

#include <cerrno>
#include <cstring>
#include <fstream>

#include "broker/ssh/remote_text.hpp"

namespace muster {
namespace {

using Clock = std::chrono::steady_clock;

// A request that the node's sshd answers by itself.
constexpr std::chrono::seconds kAnswer{30};
// Nothing that is uploaded takes this long on a link over which tasks make sense.
constexpr std::chrono::hours kUpload{2};

// The only name that both `permitlisten="localhost:PORT"` and sshd's loopback agree on.
constexpr const char* kLoopback = "localhost";

}  // namespace

LibsshRemote::LibsshRemote(const Host& host, TunnelCounters& counters)
    : host_(host), counters_(counters) {}

void LibsshRemote::open(const std::function<void(const std::string& step)>& step) {
  pump_.reset();
  session_ = std::make_unique<SshSession>(host_, waker_);
  session_->open(step);
  pump_ = std::make_unique<Pump>(*session_, waker_, counters_);
}

std::uint16_t LibsshRemote::ask_to_listen(std::uint16_t port) {
  int bound = port;
  const int result = session_->until(
      [&] { return ssh_channel_listen_forward(session_->get(), kLoopback, port, &bound); },
      SSH_AGAIN, Clock::now() + kAnswer, "forward");
  if (result == SSH_OK) {
    // libssh reads a chosen port from whatever packet came last.
    if (bound <= 0 || bound > 65535) {
      throw NodeError(
          NodeError::Kind::passing, "forward",
          fmt::format("{} did not say which port it listens on; name one with `reverse_port` in "
                      "the hosts file",
                      host_.address));
    }
    return static_cast<std::uint16_t>(bound);
  }
  if (ssh_is_connected(session_->get()) == 0) throw session_->broken("forward");
  return 0;
}

std::uint16_t LibsshRemote::forward(std::uint16_t port, const std::string& socket_path) {
  const std::uint16_t bound = ask_to_listen(port);
  if (bound == 0) fail_forward(port);
  pump_->forward(bound, socket_path);
  return bound;
}

void LibsshRemote::fail_forward(std::uint16_t port) {
  const std::string& host = session_->target().host;
  if (port == 0) throw forward_error(host, port, "request denied");
  // A node that lets us have any other port does not forbid this one.
  const std::uint16_t other = ask_to_listen(0);
  if (other == 0) throw forward_error(host, port, "request denied");
  session_->until([&] { return ssh_channel_cancel_forward(session_->get(), kLoopback, other); },
                  SSH_AGAIN, Clock::now() + kAnswer, "forward");
  throw forward_taken_error(host, port);
}

CommandOutput LibsshRemote::run(const std::string& command, std::string_view input,
                                std::chrono::seconds patience) {
  CommandOutput result;
  const Deadline deadline = Clock::now() + patience;
  RemoteCommand running(
      *session_, command,
      [&](std::string_view bytes, bool is_error) {
        append_kept(is_error ? result.error_output : result.output, bytes);
      },
      "probe", deadline);
  running.send(input);
  running.end_input();
  pump_->run(running, "probe", deadline);
  if (!running.status()) throw session_->broken("probe");
  result.status = *running.status();
  return result;
}

void LibsshRemote::upload(const std::filesystem::path& file, const std::string& path,
                          const std::function<void(std::uint64_t bytes)>& progress) {
  std::ifstream stream(file, std::ios::binary);
  if (!stream) {
    throw NodeError(NodeError::Kind::lasting, "upload",
                    fmt::format("cannot read '{}': {}", file.string(), std::strerror(errno)));
  }
  const Deadline deadline = Clock::now() + kUpload;
  std::string complaint;
  RemoteCommand running(
      *session_, upload_command(path),
      [&](std::string_view bytes, bool) { append_kept(complaint, bytes); }, "upload", deadline);
  std::uint64_t sent = 0;
  running.send_from([&](char* buffer, std::size_t size) {
    stream.read(buffer, static_cast<std::streamsize>(size));
    const auto got = static_cast<std::size_t>(stream.gcount());
    sent += got;
    if (progress && got > 0) progress(sent);
    return got;
  });
  running.end_input();
  pump_->run(running, "upload", deadline);
  if (!running.status()) throw session_->broken("upload");
  if (*running.status() != 0) {
    throw upload_error(session_->target().host, path, *running.status(), complaint);
  }
  if (stream.bad()) {
    throw NodeError(NodeError::Kind::lasting, "upload",
                    fmt::format("cannot read all of '{}'", file.string()));
  }
}

int LibsshRemote::serve(const std::string& command, std::string_view input, const LineSink& sink) {
  if (command.empty()) {
    pump_->carry(nullptr);
    throw session_->broken("serve");
  }
  LineSplitter lines(sink);
  RemoteCommand held(
      *session_, command,
      [&](std::string_view bytes, bool is_error) { lines.add(bytes, is_error); }, "serve",
      Clock::now() + kAnswer);
  held.send(input);
  pump_->carry(&held);
  lines.flush();
  if (!held.status()) throw session_->broken("serve");
  return *held.status();
}

}  // namespace muster
