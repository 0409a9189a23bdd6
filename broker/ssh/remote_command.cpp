#include "broker/ssh/remote_command.hpp"

#include <fmt/format.h>
#include <string.h>

#include <algorithm>
#include <csignal>

namespace muster {
namespace {

using Clock = std::chrono::steady_clock;

// What one call of write_some() reads and sends: two packets of libssh.
constexpr std::size_t kChunkBytes = 64 * 1024;
// A command that has ended may have left children that keep its output open.
constexpr std::chrono::seconds kLinger{2};

}  // namespace

RemoteCommand::RemoteCommand(SshSession& session, const std::string& command, Output output,
                             const char* step, Deadline deadline)
    : session_(session), output_(std::move(output)), channel_(ssh_channel_new(session.get())) {
  if (channel_ == nullptr) throw session.broken(step);
  ssh_callbacks_init(&callbacks_);
  callbacks_.userdata = this;
  callbacks_.channel_data_function = on_data;
  callbacks_.channel_close_function = on_close;
  callbacks_.channel_exit_status_function = on_status;
  callbacks_.channel_exit_signal_function = on_signal;
  ssh_set_channel_callbacks(channel_, &callbacks_);
  try {
    const auto refused = [&](const char* what) {
      if (ssh_is_connected(session.get()) == 0) return session.broken(step);
      return NodeError(NodeError::Kind::lasting, step,
                       fmt::format("{} refuses to {} ({}); check MaxSessions and ForceCommand in "
                                   "its sshd_config and the options of the key in "
                                   "authorized_keys",
                                   session.target().host, what, ssh_get_error(session.get())));
    };
    const int opened = session.until([this] { return ssh_channel_open_session(channel_); },
                                     SSH_AGAIN, deadline, step);
    if (opened != SSH_OK) throw refused("open a session");
    const int started =
        session.until([&] { return ssh_channel_request_exec(channel_, command.c_str()); },
                      SSH_AGAIN, deadline, step);
    if (started != SSH_OK) throw refused("run a command");
  } catch (...) {
    release();
    throw;
  }
}

RemoteCommand::~RemoteCommand() { release(); }

void RemoteCommand::release() {
  if (channel_ != nullptr) discard_channel(channel_, &callbacks_);
  channel_ = nullptr;
}

bool RemoteCommand::wants_to_write() const {
  if (closed_ || input_over_) return false;
  if (written_ == pending_.size() && !more_) return ends_;
  return ssh_channel_window_size(channel_) > 0;
}

bool RemoteCommand::write_some() {
  if (!wants_to_write()) return true;
  if (written_ == pending_.size()) {
    pending_.clear();
    written_ = 0;
    if (more_) {
      pending_.resize(kChunkBytes);
      pending_.resize(more_(pending_.data(), pending_.size()));
      if (pending_.empty()) more_ = nullptr;
    }
  }
  if (pending_.empty()) {
    if (!ends_) return true;
    input_over_ = true;
    return ssh_channel_send_eof(channel_) != SSH_ERROR;
  }
  const std::size_t size = std::min(
      {pending_.size() - written_, kChunkBytes, std::size_t{ssh_channel_window_size(channel_)}});
  const int sent =
      ssh_channel_write(channel_, pending_.data() + written_, static_cast<std::uint32_t>(size));
  if (sent >= 0) {
    written_ += static_cast<std::size_t>(sent);
    return true;
  }
  input_over_ = true;  // the command ended without reading all of it
  return ssh_is_connected(session_.get()) != 0;
}

bool RemoteCommand::over() const {
  return closed_ || (abandon_.has_value() && Clock::now() >= *abandon_);
}

void RemoteCommand::ended(int status) {
  status_ = status;
  abandon_ = Clock::now() + kLinger;
}

int RemoteCommand::on_data(ssh_session, ssh_channel, void* data, std::uint32_t size, int is_error,
                           void* user) {
  auto* self = static_cast<RemoteCommand*>(user);
  self->output_({static_cast<const char*>(data), size}, is_error != 0);
  return static_cast<int>(size);
}

void RemoteCommand::on_close(ssh_session, ssh_channel, void* user) {
  static_cast<RemoteCommand*>(user)->closed_ = true;
}

void RemoteCommand::on_status(ssh_session, ssh_channel, int status, void* user) {
  static_cast<RemoteCommand*>(user)->ended(status);
}

void RemoteCommand::on_signal(ssh_session, ssh_channel, const char* name, int, const char*,
                              const char*, void* user) {
  int found = SIGKILL;
  for (int number = 1; number < NSIG; ++number) {
    const char* known = sigabbrev_np(number);
    if (known != nullptr && name != nullptr && std::string_view(known) == name) found = number;
  }
  static_cast<RemoteCommand*>(user)->ended(128 + found);
}

void discard_channel(ssh_channel channel, ssh_channel_callbacks callbacks) {
  ssh_remove_channel_callbacks(channel, callbacks);
  if (ssh_is_connected(ssh_channel_get_session(channel)) != 0) {
    // While the socket is full the first call sends only the end of file, and says "again".
    if (ssh_channel_close(channel) == SSH_AGAIN) ssh_channel_close(channel);
  }
  ssh_channel_free(channel);
}

}  // namespace muster
