#include "broker/ssh/remote_text.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "common/protocol/limits.hpp"

namespace muster {
namespace {

constexpr std::size_t kKeptBytes = std::size_t{1} << 20;  // remote.hpp, Remote::run

}  // namespace

void LineSplitter::add(std::string_view bytes, bool is_error) {
  std::string& line = lines_[is_error ? 1 : 0];
  while (!bytes.empty()) {
    const std::size_t end = bytes.find('\n');
    const std::size_t size = std::min({end, bytes.size(), limits::kMaxLineBytes - line.size()});
    line += bytes.substr(0, size);
    bytes.remove_prefix(size);
    const bool ends = end == size;
    if (ends) bytes.remove_prefix(1);
    if (ends || line.size() == limits::kMaxLineBytes) emit(line, is_error);
  }
}

void LineSplitter::flush() {
  for (const bool is_error : {false, true}) {
    if (!lines_[is_error ? 1 : 0].empty()) emit(lines_[is_error ? 1 : 0], is_error);
  }
}

void LineSplitter::emit(std::string& line, bool is_error) {
  if (!line.empty() && line.back() == '\r') line.pop_back();
  if (sink_) sink_(line, is_error);
  line.clear();
}

void append_kept(std::string& kept, std::string_view bytes) {
  kept += bytes.substr(0, kKeptBytes - std::min(kKeptBytes, kept.size()));
}

std::string shell_word(std::string_view text) {
  std::string word = "'";
  for (const char c : text) {
    if (c == '\'') {
      word += "'\\''";
    } else {
      word += c;
    }
  }
  return word + "'";
}

std::string upload_command(const std::string& path) {
  // LC_ALL: upload_error() reads the reason.
  return "LC_ALL=C exec sh -c 'umask 077; exec cat > \"$0\"' " + shell_word(path);
}

NodeError upload_error(const std::string& host, const std::string& path, int status,
                       const std::string& complaint) {
  std::string reason = complaint.empty() ? fmt::format("exit status {}", status) : complaint;
  while (!reason.empty() && reason.back() == '\n') reason.pop_back();
  std::replace(reason.begin(), reason.end(), '\n', ';');
  const std::string folder = std::filesystem::path(path).parent_path().string();
  const std::string where = folder.empty() ? "the home folder" : folder;
  if (reason.find("No space left") != std::string::npos ||
      reason.find("quota exceeded") != std::string::npos) {
    return {NodeError::Kind::lasting, "upload",
            fmt::format("disk full on {}: cannot write to {} ({}); make room there: ssh {} df -h "
                        "{}",
                        host, where, reason, host, folder.empty() ? "." : folder)};
  }
  return {NodeError::Kind::lasting, "upload",
          fmt::format("cannot write '{}' on {}: {}; check that {} exists and belongs to you", path,
                      host, reason, where)};
}

NodeError forward_error(const std::string& host, std::uint16_t port, const std::string& reason) {
  const std::string what = port == 0 ? "a port of its choice" : fmt::format("port {}", port);
  const std::string permitted = port == 0 ? "PORT" : std::to_string(port);
  std::string text = fmt::format(
      "the sshd of {} refuses to listen on its loopback for us ({}: {}). Allow it: "
      "AllowTcpForwarding yes (or remote) and no PermitListen against it in its sshd_config, and "
      "in authorized_keys, where a key is restricted: restrict,port-forwarding,"
      "permitlisten=\"localhost:{}\"",
      host, what, reason, permitted);
  text += port == 0 ? "; a fixed port is asked for with `reverse_port` in the hosts file"
                    : fmt::format(
                          "; or something else listens on port {} there: set another "
                          "`reverse_port` in the hosts file",
                          port);
  return {NodeError::Kind::lasting, "forward", text};
}

NodeError forward_taken_error(const std::string& host, std::uint16_t port) {
  return {NodeError::Kind::passing, "forward",
          fmt::format("port {} of {} is taken, perhaps still by an earlier connection of ours; set "
                      "ClientAliveInterval 15 in its sshd_config to have such connections end "
                      "soon, or another `reverse_port` in the hosts file",
                      port, host)};
}

}  // namespace muster
