// Remote over the system's ssh program, for logins that need what libssh lacks. One `ssh -M` holds
// the connection, everything else rides on it through its control socket. A connection that the
// user already shares (ControlMaster) is used as it is.
//
// TunnelCounters stay 0: the bytes pass through ssh.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "broker/hosts/host.hpp"
#include "broker/ssh/child.hpp"
#include "broker/ssh/remote.hpp"
#include "broker/ssh/waker.hpp"

namespace muster {

class OpensshRemote : public Remote {
 public:
  explicit OpensshRemote(const Host& host);
  ~OpensshRemote() override;

  void open(const std::function<void(const std::string& step)>& step) override;
  std::uint16_t forward(std::uint16_t port, const std::string& socket_path) override;
  CommandOutput run(const std::string& command, std::string_view input,
                    std::chrono::seconds patience) override;
  void upload(const std::filesystem::path& file, const std::string& path,
              const std::function<void(std::uint64_t bytes)>& progress) override;
  int serve(const std::string& command, std::string_view input, const LineSink& sink) override;
  void finish(std::string_view last_words) override { waker_.finish(last_words); }
  void cut() override { waker_.cut(); }

 private:
  // `ssh` with what the host says.
  std::vector<std::string> client() const;
  // ... that goes through the control socket or fails.
  std::vector<std::string> passenger() const;
  CommandOutput run_client(const std::vector<std::string>& argv, std::chrono::seconds patience,
                           const char* step);
  void look_up_target();
  bool shares_a_connection();
  void start_master();
  // The allocated port, 0: refused with `reason`.
  std::uint16_t ask_to_listen(std::uint16_t port, const std::string& socket_path,
                              std::string& reason);
  void cancel_forward();
  bool is_connected();
  void hold_master();
  // Runs `child`, through the master, to its end.
  void drive(Child& child, Deadline deadline, const char* step);
  // Checks that the exit status is the command's, not that of ssh itself.
  int status_of(const Child& child, const std::string& complaint, const char* step);
  NodeError broken(const char* step) const;

  const Host host_;
  Waker waker_;
  std::string folder_;  // private, holds the control socket
  std::string control_path_;
  bool shared_ = false;
  bool ready_ = false;     // the master is logged in
  std::string target_;     // user@host, for texts
  std::string forward_;    // the -R argument in force
  std::string complaint_;  // the end of the master's standard error
  std::unique_ptr<Child> master_;
};

}  // namespace muster
