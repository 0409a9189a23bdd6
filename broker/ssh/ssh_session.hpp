// A libssh session from nothing to logged in. It never blocks inside libssh: every step is repeated
// until it is done, and the waiting is poll(2) here, so that cut() ends it.
//
// Owner: LibsshRemote. Threads: the owner's.
#pragma once

#include <libssh/libssh.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "broker/hosts/host.hpp"
#include "broker/ssh/dial.hpp"
#include "broker/ssh/remote.hpp"
#include "broker/ssh/waker.hpp"

namespace muster {

// The user and host to speak to, after ~/.ssh/config.
struct SshTarget {
  std::string host;
  std::uint16_t port = 22;
  std::string user;
};

// An option of the session as libssh knows it; empty: it is not set.
std::string ssh_option(ssh_session session, ssh_options_e which);

struct Identities;

class SshSession {
 public:
  SshSession(const Host& host, Waker& waker);
  ~SshSession();
  SshSession(const SshSession&) = delete;
  SshSession& operator=(const SshSession&) = delete;

  // Remote::open.
  void open(const std::function<void(const std::string& step)>& step);

  ssh_session get() const { return session_; }
  const SshTarget& target() const { return target_; }

  // Repeats `attempt` until it returns something other than `again`, waiting for the peer in
  // between. Throws NodeError `step` when `deadline` is over.
  int until(const std::function<int()>& attempt, int again, Deadline deadline, const char* step);

  // A NodeError about a connection that broke, with libssh's reason.
  NodeError broken(const char* step) const;
  // Lets libssh read and write what it can now; false: the connection is over.
  bool turn();
  // What poll(2) is to wait for on ssh_get_fd(), as libssh sees it.
  short wanted_events() const;

 private:
  void configure();
  void read_config();
  Descriptor dial_target(const std::function<void(const std::string& step)>& step);
  Descriptor dial_proxy(const std::string& command);
  void exchange_keys();
  void offer_agent();
  Identities identities() const;

  const Host& host_;
  Waker& waker_;
  Deadline deadline_{};
  SshTarget target_;
  std::string proxy_command_;  // of ~/.ssh/config, not expanded
  bool identities_only_ = false;
  std::vector<std::string> identity_files_;
  ProxyCommand proxy_;
  ssh_session session_ = nullptr;
  ssh_event event_ = nullptr;
};

// Throws NodeError "host key" unless the key that the server offered is in known_hosts.
void check_host_key(ssh_session session, const SshTarget& target);

struct Identities {
  std::vector<std::string> files;  // private keys; a certificate beside one is used, too
  bool must_exist = false;         // they were asked for: one that is missing is an error
  bool agent_first = true;         // all that the agent holds; else only when a file is encrypted
};

// Logs in. Asks nobody for a passphrase or password. Throws NodeError "login".
void log_in(SshSession& session, const Identities& identities, Deadline deadline);

}  // namespace muster
