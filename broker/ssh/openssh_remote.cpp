#include "broker/ssh/openssh_remote.hpp"

#include <fmt/format.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <sstream>

#include "broker/ssh/openssh_client.hpp"
#include "broker/ssh/remote_text.hpp"

namespace muster {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::seconds kAnswer{30};
constexpr std::chrono::hours kUpload{2};
constexpr std::chrono::seconds kLastWords{2};
constexpr std::size_t kComplaintBytes = 4096;
constexpr std::string_view kReady = "muster-connected";
// What ssh itself exits with when anything but the command goes wrong.
constexpr int kSshFailed = 255;

void keep_end(std::string& kept, std::string_view bytes) {
  kept += bytes;
  if (kept.size() > kComplaintBytes) kept.erase(0, kept.size() - kComplaintBytes);
}

// ssh hides which signal ended a command, a shell does not.
std::string with_status(const std::string& command) {
  return R"(exec sh -c '"${SHELL:-sh}" -c "$0"; exit $?' )" + shell_word(command);
}

}  // namespace

OpensshRemote::OpensshRemote(const Host& host) : host_(host) {}

OpensshRemote::~OpensshRemote() {
  if (shared_ && !forward_.empty()) cancel_forward();
  master_.reset();
  if (folder_.empty()) return;
  std::error_code ignored;
  std::filesystem::remove_all(folder_, ignored);
}

std::vector<std::string> OpensshRemote::client() const {
  std::vector<std::string> words = openssh_client(host_);
  // The first value of an option counts, so these win over every file.
  for (const char* option :
       {"ClearAllForwardings=no", "ExitOnForwardFailure=yes", "ServerAliveInterval=5",
        "ServerAliveCountMax=3", "ControlPersist=no", "RequestTTY=no", "RemoteCommand=none"}) {
    words.insert(words.end(), {"-o", option});
  }
  if (!host_.user.empty()) words.insert(words.end(), {"-l", host_.user});
  if (host_.port != 0) words.insert(words.end(), {"-p", std::to_string(host_.port)});
  if (!host_.identity.empty()) words.insert(words.end(), {"-o", "IdentitiesOnly=yes"});
  return words;
}

std::vector<std::string> OpensshRemote::passenger() const {
  std::vector<std::string> words = client();
  // Without the master ssh would log in anew, to a connection that has no tunnel.
  words.insert(words.begin() + 1, {"-S", control_path_, "-o", "ProxyCommand=false"});
  return words;
}

CommandOutput OpensshRemote::run_client(const std::vector<std::string>& argv,
                                        std::chrono::seconds patience, const char* step) {
  CommandOutput result;
  Child child(argv, [&](std::string_view bytes, bool is_error) {
    append_kept(is_error ? result.error_output : result.output, bytes);
  });
  child.end_input();
  drive(child, Clock::now() + patience, step);
  result.status = *child.status();
  return result;
}

void OpensshRemote::drive(Child& child, Deadline deadline, const char* step) {
  while (!child.turn(waker_, deadline)) {
    if (Clock::now() >= deadline) {
      throw NodeError(
          NodeError::Kind::passing, step,
          fmt::format("a command on {} took too long; check the machine's load", target_));
    }
  }
}

void OpensshRemote::open(const std::function<void(const std::string& step)>& step) {
  master_.reset();
  forward_.clear();
  complaint_.clear();
  target_ = host_.address;
  if (host_.address.empty() || host_.address.front() == '-') {
    throw NodeError(NodeError::Kind::lasting, "resolve",
                    fmt::format("'{}' cannot be a host name", host_.address));
  }
  step("connect");
  look_up_target();
  shared_ = shares_a_connection();
  if (!shared_) start_master();
}

void OpensshRemote::look_up_target() {
  std::vector<std::string> words = client();
  if (!host_.jump.empty()) words.insert(words.end(), {"-J", host_.jump});
  words.insert(words.end(), {"-G", "--", host_.address});
  const CommandOutput found = run_client(words, kAnswer, "connect");
  if (found.status != 0) throw openssh_error(target_, found.error_output);
  std::istringstream lines(found.output);
  std::string key;
  std::string value;
  std::string user;
  std::string name = host_.address;
  control_path_.clear();
  while (lines >> key && std::getline(lines >> std::ws, value)) {
    if (key == "user") user = value;
    if (key == "hostname") name = value;
    if (key == "controlpath" && value != "none") control_path_ = value;
  }
  target_ = user + "@" + name;
}

bool OpensshRemote::shares_a_connection() { return !control_path_.empty() && is_connected(); }

void OpensshRemote::start_master() {
  if (folder_.empty()) {
    std::string name = (std::filesystem::temp_directory_path() / "muster-ssh-XXXXXX").string();
    if (mkdtemp(name.data()) == nullptr) {
      throw NodeError(NodeError::Kind::lasting, "connect",
                      fmt::format("cannot make a folder '{}': {}", name, std::strerror(errno)));
    }
    folder_ = name;
  }
  control_path_ = folder_ + "/control";
  std::vector<std::string> words = client();
  // The command that ssh runs here once it is connected tells us so.
  words.insert(words.begin() + 1,
               {"-M", "-N", "-S", control_path_, "-o", "ControlMaster=yes", "-o",
                "PermitLocalCommand=yes", "-o", fmt::format("LocalCommand=echo {}", kReady)});
  if (!host_.jump.empty()) words.insert(words.end(), {"-J", host_.jump});
  words.insert(words.end(), {"--", host_.address});
  std::string output;
  master_ =
      std::make_unique<Child>(words, [this, output](std::string_view bytes, bool is_error) mutable {
        if (is_error) keep_end(complaint_, bytes);
        if (!is_error) output += bytes;
        if (output.find(kReady) != std::string::npos) ready_ = true;
      });
  ready_ = false;
  // Log-in may take as long as the connection.
  const Deadline deadline = Clock::now() + 2 * host_.connect_timeout;
  while (!ready_) {
    if (master_->turn(waker_, deadline)) throw openssh_error(target_, complaint_);
    if (Clock::now() >= deadline) {
      throw NodeError(NodeError::Kind::passing, "connect",
                      fmt::format("{} did not let ssh in in time; its last words: {}", target_,
                                  one_line(complaint_)));
    }
  }
}

bool OpensshRemote::is_connected() {
  if (access(control_path_.c_str(), F_OK) == 0) {
    std::vector<std::string> words = passenger();
    words.insert(words.end(), {"-O", "check", "--", host_.address});
    if (run_client(words, kAnswer, "serve").status == 0) return true;
  }
  // It is ending; its last words say why.
  const Deadline deadline = Clock::now() + kLastWords;
  while (master_ != nullptr && !master_->turn(waker_, deadline) && Clock::now() < deadline) {
  }
  return false;
}

NodeError OpensshRemote::broken(const char* step) const {
  const std::string reason = one_line(complaint_);
  return {NodeError::Kind::passing, step,
          fmt::format("the connection to {} broke: {}", target_,
                      reason.empty() ? "closed by the node" : reason)};
}

std::uint16_t OpensshRemote::ask_to_listen(std::uint16_t port, const std::string& socket_path,
                                           std::string& reason) {
  std::vector<std::string> words = passenger();
  words.insert(words.end(),
               {"-O", "forward", "-R", fmt::format("localhost:{}:{}", port, socket_path), "--",
                host_.address});
  const CommandOutput asked = run_client(words, kAnswer, "forward");
  if (asked.status != 0) {
    if (!is_connected()) throw broken("forward");
    reason = one_line(asked.error_output);
    return 0;
  }
  const int bound = port != 0 ? port : std::atoi(asked.output.c_str());
  if (bound <= 0 || bound > 65535) {
    throw NodeError(
        NodeError::Kind::passing, "forward",
        fmt::format("{} did not say which port it listens on; name one with `reverse_port` in "
                    "the hosts file",
                    target_));
  }
  // A port of the node's choice is cancelled by the name under which it was asked for.
  forward_ = words[words.size() - 3];
  return static_cast<std::uint16_t>(bound);
}

std::uint16_t OpensshRemote::forward(std::uint16_t port, const std::string& socket_path) {
  std::string reason;
  const std::uint16_t bound = ask_to_listen(port, socket_path, reason);
  if (bound != 0) return bound;
  if (port == 0) throw forward_error(target_, port, reason);
  if (ask_to_listen(0, socket_path, reason) == 0) throw forward_error(target_, port, reason);
  cancel_forward();
  throw forward_taken_error(target_, port);
}

void OpensshRemote::cancel_forward() {
  std::vector<std::string> words = passenger();
  words.insert(words.end(), {"-O", "cancel", "-R", forward_, "--", host_.address});
  forward_.clear();
  try {
    Waker own;  // also after a cut
    Child child(words, [](std::string_view, bool) {});
    child.end_input();
    const Deadline deadline = Clock::now() + kAnswer;
    while (!child.turn(own, deadline) && Clock::now() < deadline) {
    }
  } catch (const std::exception&) {
    // The connection is over, and its forwards with it.
  }
}

int OpensshRemote::status_of(const Child& child, const std::string& complaint, const char* step) {
  const int status = child.status().value_or(kSshFailed);
  if (status != kSshFailed) return status;
  if (!is_connected()) throw broken(step);
  if (complaint.find("mux_client") != std::string::npos ||
      complaint.find("Control socket") != std::string::npos) {
    throw NodeError(NodeError::Kind::passing, step,
                    fmt::format("{} runs no command for us: {}; check MaxSessions and ForceCommand "
                                "in its sshd_config",
                                target_, one_line(complaint)));
  }
  return status;
}

CommandOutput OpensshRemote::run(const std::string& command, std::string_view input,
                                 std::chrono::seconds patience) {
  CommandOutput result;
  std::vector<std::string> words = passenger();
  words.insert(words.end(), {"--", host_.address, with_status(command)});
  Child child(words, [&](std::string_view bytes, bool is_error) {
    append_kept(is_error ? result.error_output : result.output, bytes);
  });
  child.send(input);
  child.end_input();
  drive(child, Clock::now() + patience, "probe");
  result.status = status_of(child, result.error_output, "probe");
  return result;
}

void OpensshRemote::upload(const std::filesystem::path& file, const std::string& path,
                           const std::function<void(std::uint64_t bytes)>& progress) {
  std::ifstream stream(file, std::ios::binary);
  if (!stream) {
    throw NodeError(NodeError::Kind::lasting, "upload",
                    fmt::format("cannot read '{}': {}", file.string(), std::strerror(errno)));
  }
  std::vector<std::string> words = passenger();
  words.insert(words.end(), {"--", host_.address, upload_command(path)});
  std::string complaint;
  Child child(words, [&](std::string_view bytes, bool) { append_kept(complaint, bytes); });
  std::uint64_t sent = 0;
  child.send_from([&](char* buffer, std::size_t size) {
    stream.read(buffer, static_cast<std::streamsize>(size));
    const auto got = static_cast<std::size_t>(stream.gcount());
    sent += got;
    if (progress && got > 0) progress(sent);
    return got;
  });
  child.end_input();
  drive(child, Clock::now() + kUpload, "upload");
  const int status = status_of(child, complaint, "upload");
  if (status != 0) throw upload_error(target_, path, status, complaint);
}

void OpensshRemote::hold_master() {
  while (!master_->turn(waker_, Deadline::max())) {
    if (waker_.take_last_words()) return;
  }
}

int OpensshRemote::serve(const std::string& command, std::string_view input, const LineSink& sink) {
  // A key that may open tunnels only lets nothing run.
  if (command.empty() && master_ != nullptr) {
    hold_master();
    throw broken("serve");
  }
  std::vector<std::string> words = passenger();
  // Something must run to hold a connection that is not ours.
  const bool holds = command.empty();
  words.insert(words.end(), {"--", host_.address, holds ? "exec cat" : with_status(command)});
  LineSplitter lines(sink);
  std::string complaint;
  Child child(words, [&](std::string_view bytes, bool is_error) {
    if (is_error) keep_end(complaint, bytes);
    if (!holds) lines.add(bytes, is_error);
  });
  child.send(input);
  do {
    if (const auto last_words = waker_.take_last_words()) {
      child.send(*last_words);
      child.end_input();
    }
  } while (!child.turn(waker_, Deadline::max()));
  lines.flush();
  const int status = status_of(child, complaint, "serve");
  if (holds) throw broken("serve");
  return status;
}

}  // namespace muster
