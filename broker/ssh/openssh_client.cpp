#include "broker/ssh/openssh_client.hpp"

#include <fmt/format.h>
#include <pwd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <string_view>

#include "broker/hosts/ssh_config.hpp"

namespace muster {
namespace {

using Kind = NodeError::Kind;

struct Meaning {
  std::string_view text;
  Kind kind;
  const char* step;
  std::string_view advice;
};

// The first that is found counts.
constexpr std::array kMeanings{
    Meaning{"Temporary failure in name resolution", Kind::passing, "resolve",
            "check this machine's network and /etc/resolv.conf"},
    Meaning{"Could not resolve hostname", Kind::lasting, "resolve",
            "check the spelling of `address`, /etc/hosts and DNS"},
    Meaning{"REMOTE HOST IDENTIFICATION HAS CHANGED", Kind::lasting, "host key",
            "either the machine was reinstalled, or somebody is in between: compare the "
            "fingerprint with what 'ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub' says on the "
            "node itself; if it is right, remove the old key with the ssh-keygen -R command above "
            "and log in once with ssh"},
    Meaning{"Host key verification failed", Kind::lasting, "host key",
            "the host key is not in known_hosts: log in once with ssh, compare the fingerprint it "
            "shows with what 'ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub' says on the node "
            "itself, and accept it"},
    Meaning{"Too many authentication failures", Kind::lasting, "login",
            "name the right key with `identity`: the agent holds too many"},
    Meaning{"Permission denied", Kind::lasting, "login",
            "check `user` and `identity`; a key with a passphrase must be in the agent: run "
            "'ssh-add'; a key is put on the node with ssh-copy-id"},
    Meaning{"Bad owner or permissions", Kind::lasting, "connect",
            "only you may be able to write that file"},
    Meaning{"Bad configuration option", Kind::lasting, "connect", "correct that line"},
    Meaning{"terminating, ", Kind::lasting, "connect", "correct that file"},
    Meaning{"no matching", Kind::lasting, "connect", "update the node's sshd"},
};

// A home folder that is not the one in passwd: ssh itself only knows the latter.
bool has_other_home() {
  const passwd* entry = getpwuid(getuid());
  return entry == nullptr || ssh_folder() != std::string(entry->pw_dir) + "/.ssh";
}

std::string existing(const std::string& path) {
  return access(path.c_str(), R_OK) == 0 ? path : std::string();
}

void add_other_home(const Host& host, std::vector<std::string>& words) {
  const std::string folder = ssh_folder();
  if (host.ssh_config.empty() && !existing(folder + "/config").empty()) {
    words.insert(words.end(), {"-F", folder + "/config"});
  }
  if (host.known_hosts.empty()) {
    words.insert(words.end(), {"-o", "UserKnownHostsFile=" + folder + "/known_hosts"});
  }
  if (!host.identity.empty()) return;
  for (const char* name : {"id_rsa", "id_ecdsa", "id_ecdsa_sk", "id_ed25519", "id_ed25519_sk"}) {
    const std::string key = existing(folder + "/" + name);
    if (!key.empty()) words.insert(words.end(), {"-i", key});
  }
}

}  // namespace

std::vector<std::string> openssh_client(const Host& host) {
  // The first value of an option counts, so these win over every file.
  std::vector<std::string> words{
      "ssh", "-T",
      "-a",  "-x",
      "-o",  "BatchMode=yes",
      "-o",  "StrictHostKeyChecking=yes",
      "-o",  fmt::format("ConnectTimeout={}", host.connect_timeout.count())};
  if (!host.ssh_config.empty()) words.insert(words.end(), {"-F", host.ssh_config});
  if (!host.identity.empty()) words.insert(words.end(), {"-i", host.identity});
  if (!host.known_hosts.empty()) {
    words.insert(words.end(), {"-o", "UserKnownHostsFile=" + host.known_hosts, "-o",
                               "GlobalKnownHostsFile=/dev/null"});
  }
  if (has_other_home()) add_other_home(host, words);
  return words;
}

std::string one_line(const std::string& text) {
  std::string line;
  for (const char c : text) {
    if (c == '\n') {
      if (!line.empty() && line.back() != ' ') line += "; ";
    } else if (c != '\r') {
      line += c;
    }
  }
  while (line.ends_with("; ")) line.resize(line.size() - 2);
  return line;
}

NodeError openssh_error(const std::string& target, const std::string& complaint) {
  const std::string said = one_line(complaint);
  for (const Meaning& meaning : kMeanings) {
    if (complaint.find(meaning.text) == std::string::npos) continue;
    return {
        meaning.kind, meaning.step,
        fmt::format("ssh cannot log in to {}: {}. To repair it: {}", target, said, meaning.advice)};
  }
  return {Kind::passing, "connect",
          fmt::format("ssh cannot reach {}: {}; check that the machine is up, that its sshd "
                      "listens and that no firewall is between",
                      target, said.empty() ? "it ended without a word" : said)};
}

}  // namespace muster
