// One command on the node: an exec channel, its standard streams and how it ended.
//
// Owner: the caller that runs it with a Pump, which drives it. Threads: the session's.
#pragma once

#include <libssh/callbacks.h>
#include <libssh/libssh.h>

#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "broker/ssh/ssh_session.hpp"

namespace muster {

class RemoteCommand {
 public:
  using Output = std::function<void(std::string_view bytes, bool is_error)>;
  // Fills `buffer` with more standard input and returns its size; 0: that was all.
  using Input = std::function<std::size_t(char* buffer, std::size_t size)>;

  // Starts `command`. `step` is for errors. Throws NodeError.
  RemoteCommand(SshSession& session, const std::string& command, Output output, const char* step,
                Deadline deadline);
  ~RemoteCommand();
  RemoteCommand(const RemoteCommand&) = delete;
  RemoteCommand& operator=(const RemoteCommand&) = delete;

  // Standard input: what is given here, then what `more` has, then its end if it was asked for.
  void send(std::string_view bytes) { pending_ += bytes; }
  void send_from(Input more) { more_ = std::move(more); }
  void end_input() { ends_ = true; }
  // Writes what the window allows, at most one packet's worth; false: the session is broken.
  bool write_some();
  bool wants_to_write() const;

  // The channel is closed, or the command has ended and its descendants keep the channel open.
  bool over() const;
  // When over() may become true without an event.
  std::optional<Deadline> deadline() const { return abandon_; }
  // CommandOutput::status; nothing: the node did not say.
  std::optional<int> status() const { return status_; }

 private:
  static int on_data(ssh_session, ssh_channel, void* data, std::uint32_t size, int is_error,
                     void* user);
  static void on_close(ssh_session, ssh_channel, void* user);
  static void on_status(ssh_session, ssh_channel, int status, void* user);
  static void on_signal(ssh_session, ssh_channel, const char* name, int, const char*, const char*,
                        void* user);
  void ended(int status);
  void release();

  SshSession& session_;
  Output output_;
  Input more_;
  std::string pending_;
  std::size_t written_ = 0;  // of pending_
  bool ends_ = false;
  bool input_over_ = false;
  bool closed_ = false;
  std::optional<int> status_;
  std::optional<Deadline> abandon_;
  ssh_channel channel_ = nullptr;
  ssh_channel_callbacks_struct callbacks_{};
};

// Closes and frees a channel whose callbacks are to hear nothing more.
void discard_channel(ssh_channel channel, ssh_channel_callbacks callbacks);

}  // namespace muster
