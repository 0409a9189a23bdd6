#include "broker/ssh/ssh_session.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <spdlog/spdlog.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <vector>

#include "broker/hosts/ssh_config.hpp"
#include "broker/ssh/openssh_client.hpp"
#include "common/printable.hpp"

namespace muster {
namespace {

using Clock = std::chrono::steady_clock;

// AES-GCM first: with the processor's help it costs a third of what ChaCha20 does.
constexpr const char* kCiphers =
    "aes128-gcm@openssh.com,aes256-gcm@openssh.com,chacha20-poly1305@openssh.com,"
    "aes128-ctr,aes192-ctr,aes256-ctr";

// Reads of a busy connection before another that wants something gets a turn: libssh reads 4 KiB
// at a time, so this is 128 KiB.
constexpr int kReadsPerTurn = 32;

[[noreturn]] void fail(const char* step, const std::string& text) {
  throw NodeError(NodeError::Kind::lasting, step, text);
}

// Only what a host or user name can hold: these words reach command lines and patterns.
void check_word(const std::string& word, const char* what) {
  const bool good = !word.empty() && word.front() != '-' &&
                    std::all_of(word.begin(), word.end(), [](unsigned char c) {
                      return std::isalnum(c) != 0 || std::strchr("._-:%+[]@\\", c) != nullptr;
                    });
  if (!good) {
    fail("resolve",
         fmt::format("'{}' cannot be a {}: use letters, digits, '.', '_' and '-'", word, what));
  }
}

void set(ssh_session session, ssh_options_e which, const void* value, const char* what) {
  if (ssh_options_set(session, which, value) < 0) {
    fail("connect", fmt::format("libssh refuses the {}: {}", what, ssh_get_error(session)));
  }
}

// The words that run the system's client as a pipe to `target` through `jump` ("a,b@c:22").
std::vector<std::string> jump_words(const Host& host, const SshTarget& target) {
  for (const std::string& hop : split(host.jump, ',')) check_word(hop, "jump host");
  std::vector<std::string> words = openssh_client(host);
  const std::size_t last = host.jump.rfind(',');
  if (last != std::string::npos) words.insert(words.end(), {"-J", host.jump.substr(0, last)});
  const std::string hop = last == std::string::npos ? host.jump : host.jump.substr(last + 1);
  words.insert(words.end(), {"-W", fmt::format("[{}]:{}", target.host, target.port), "--"});
  words.push_back("ssh://" + hop);  // the form that may have a port
  return words;
}

// ssh_config(5), TOKENS, as far as a ProxyCommand or an IdentityFile is likely to have them.
std::string expand(const std::string& text, const Host& host, const SshTarget& target) {
  std::string expanded;
  for (std::size_t index = 0; index < text.size(); ++index) {
    if (text[index] != '%' || index + 1 == text.size()) {
      expanded += text[index];
      continue;
    }
    switch (text[++index]) {
      case '%':
        expanded += '%';
        break;
      case 'h':
        expanded += target.host;
        break;
      case 'n':
        expanded += host.address;
        break;
      case 'p':
        expanded += std::to_string(target.port);
        break;
      case 'd':
        expanded += std::filesystem::path(ssh_folder()).parent_path().string();
        break;
      case 'u':
        expanded += login_name();
        break;
      case 'r':
        expanded += target.user;
        break;
      default:
        expanded += {'%', text[index]};
        break;
    }
  }
  return expanded;
}

}  // namespace

SshSession::SshSession(const Host& host, Waker& waker) : host_(host), waker_(waker) {}

SshSession::~SshSession() {
  if (session_ == nullptr) return;
  if (event_ != nullptr) {
    ssh_event_remove_session(event_, session_);
    ssh_event_free(event_);
  }
  ssh_free(session_);  // ssh_disconnect() would leave a socket open that was handed to libssh
}

void SshSession::open(const std::function<void(const std::string& step)>& step) {
  deadline_ = Clock::now() + host_.connect_timeout;
  configure();
  Descriptor socket = dial_target(step);
  waker_.guard(socket.get());
  const int number = socket.release();  // libssh closes it
  set(session_, SSH_OPTIONS_FD, &number, "connection");
  exchange_keys();
  // libssh has made it blocking, and would then wait inside send(2) on a slow link.
  fcntl(number, F_SETFL, fcntl(number, F_GETFL) | O_NONBLOCK);
  step("host key");
  check_host_key(session_, target_);
  step("login");
  offer_agent();
  log_in(*this, identities(), Clock::now() + host_.connect_timeout);
}

void SshSession::configure() {
  session_ = ssh_new();
  if (session_ == nullptr) {
    throw NodeError(NodeError::Kind::passing, "connect", "libssh has no memory for a session");
  }
  ssh_set_blocking(session_, 0);
  check_word(host_.address, "host name");
  if (!host_.user.empty()) check_word(host_.user, "user name");
  set(session_, SSH_OPTIONS_HOST, host_.address.c_str(), "address");
  if (!host_.user.empty()) set(session_, SSH_OPTIONS_USER, host_.user.c_str(), "user");
  set(session_, SSH_OPTIONS_CIPHERS_C_S, kCiphers, "ciphers");
  set(session_, SSH_OPTIONS_CIPHERS_S_C, kCiphers, "ciphers");
  set(session_, SSH_OPTIONS_SSH_DIR, ssh_folder().c_str(), "folder");
  read_config();

  // What is said here wins over the files, and no file may loosen the check of the host key.
  const int yes = 1;
  const int no = 0;
  set(session_, SSH_OPTIONS_STRICTHOSTKEYCHECK, &yes, "host key check");
  set(session_, SSH_OPTIONS_GSSAPI_DELEGATE_CREDENTIALS, &no, "options");
  if (host_.port != 0) {
    const unsigned port = host_.port;
    set(session_, SSH_OPTIONS_PORT, &port, "port");
  }
  if (!host_.known_hosts.empty()) {
    set(session_, SSH_OPTIONS_KNOWNHOSTS, host_.known_hosts.c_str(), "known_hosts");
    set(session_, SSH_OPTIONS_GLOBAL_KNOWNHOSTS, "/dev/null", "known_hosts");
  }
  const bool process_config = false;
  set(session_, SSH_OPTIONS_PROCESS_CONFIG, &process_config, "options");

  unsigned port = 22;
  ssh_options_get_port(session_, &port);
  target_ = {ssh_option(session_, SSH_OPTIONS_HOST), static_cast<std::uint16_t>(port),
             ssh_option(session_, SSH_OPTIONS_USER)};
  if (target_.user.empty()) target_.user = login_name();
  check_word(target_.host, "host name");
  check_word(target_.user, "user name");
}

void SshSession::read_config() {
  const std::vector<std::string> files =
      host_.ssh_config.empty()
          ? std::vector<std::string>{ssh_folder() + "/config", "/etc/ssh/ssh_config"}
          : std::vector<std::string>{host_.ssh_config};
  for (const std::string& file : files) {
    if (access(file.c_str(), R_OK) != 0) {
      if (host_.ssh_config.empty()) continue;
      fail("connect", fmt::format("cannot read `ssh_config` '{}': {}", file, std::strerror(errno)));
    }
    if (ssh_options_parse_config(session_, file.c_str()) != SSH_OK) {
      fail("connect", fmt::format("'{}' is not understood: {}", file, ssh_get_error(session_)));
    }
  }
  const SshConfigFindings findings = examine_ssh_config(files, host_.address, host_.user);
  identities_only_ = findings.identities_only;
  identity_files_ = findings.identity_files;
  for (const std::string& warning : findings.warnings) {
    if (first_time(host_.name + warning)) {
      spdlog::warn("node {}: {}", host_.name, printable_line(warning));
    }
  }
  proxy_command_ = ssh_option(session_, SSH_OPTIONS_PROXYCOMMAND);
}

Descriptor SshSession::dial_target(const std::function<void(const std::string& step)>& step) {
  const bool proxied = !proxy_command_.empty() && proxy_command_ != "none";
  if (!host_.jump.empty()) {
    step("connect");
    return proxy_.start(jump_words(host_, target_));
  }
  if (proxied) {
    step("connect");
    return proxy_.start({"/bin/sh", "-c", "exec " + expand(proxy_command_, host_, target_)});
  }
  step("resolve");
  const auto addresses = resolve(target_.host, target_.port, waker_, deadline_);
  step("connect");
  return dial(addresses, target_.host, target_.port, waker_, deadline_);
}

void SshSession::exchange_keys() {
  const int result =
      until([this] { return ssh_connect(session_); }, SSH_AGAIN, deadline_, "connect");
  if (result == SSH_OK) {
    event_ = ssh_event_new();
    if (event_ == nullptr || ssh_event_add_session(event_, session_) != SSH_OK) {
      throw NodeError(NodeError::Kind::passing, "connect", "libssh has no memory for a session");
    }
    return;
  }
  waker_.throw_if_cut();
  const std::string reason = ssh_get_error(session_);
  if (reason.find("no match") != std::string::npos) {
    fail("connect", fmt::format("{} and libssh have no cryptography in common: {}; update the "
                                "node's sshd, or use via = \"openssh\"",
                                target_.host, reason));
  }
  throw broken("connect");
}

void SshSession::offer_agent() {
  // A connection of our own, so that cut() ends the wait for an agent that asks its owner.
  const char* path = std::getenv("SSH_AUTH_SOCK");
  sockaddr_un where{};
  if (path == nullptr || *path == '\0' || std::strlen(path) >= sizeof where.sun_path) return;
  where.sun_family = AF_UNIX;
  std::strncpy(where.sun_path, path, sizeof where.sun_path - 1);
  Descriptor agent(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!agent || connect(agent.get(), reinterpret_cast<sockaddr*>(&where), sizeof where) != 0) {
    return;
  }
  waker_.guard(agent.get());
  ssh_set_agent_socket(session_, agent.release());
}

Identities SshSession::identities() const {
  Identities result;
  if (!host_.identity.empty()) {
    result.files = {host_.identity};
    result.must_exist = true;
    result.agent_first = false;
    return result;
  }
  result.agent_first = !identities_only_;
  for (std::string file : identity_files_) {
    if (file.starts_with("~/")) file = "%d" + file.substr(1);
    if (file != "none") result.files.push_back(expand(file, host_, target_));
  }
  if (identity_files_.empty()) {
    for (const char* name : {"id_rsa", "id_ecdsa", "id_ed25519"}) {
      result.files.push_back(ssh_folder() + "/" + name);
    }
  }
  return result;
}

int SshSession::until(const std::function<int()>& attempt, int again, Deadline deadline,
                      const char* step) {
  for (;;) {
    waker_.throw_if_cut();
    const int result = attempt();
    if (result != again) return result;
    if (!waker_.wait(ssh_get_fd(session_), wanted_events(), deadline)) {
      const std::string complaint = proxy_.complaint();
      throw NodeError(
          NodeError::Kind::passing, step,
          fmt::format("{} does not answer in time{}{}; check its load, and that port "
                      "{} is an sshd",
                      target_.host, complaint.empty() ? "" : ": ", complaint, target_.port));
    }
  }
}

NodeError SshSession::broken(const char* step) const {
  std::string reason = proxy_.complaint();
  if (reason.empty()) reason = ssh_get_error(session_);
  if (reason.empty()) reason = "closed by the node";
  return {NodeError::Kind::passing, step,
          fmt::format("the connection to {} broke: {}", target_.host, reason)};
}

bool SshSession::turn() {
  for (int reads = 0; reads < kReadsPerTurn; ++reads) {
    const int result = ssh_event_dopoll(event_, 0);
    if (result == SSH_AGAIN) break;
    if (result == SSH_ERROR) return false;
  }
  return ssh_is_connected(session_) != 0 && (ssh_get_status(session_) & SSH_CLOSED_ERROR) == 0;
}

short SshSession::wanted_events() const {
  const int flags = ssh_get_poll_flags(session_);
  return static_cast<short>(POLLIN | ((flags & SSH_WRITE_PENDING) != 0 ? POLLOUT : 0));
}

}  // namespace muster
