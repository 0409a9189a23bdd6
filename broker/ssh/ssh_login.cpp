// The two questions before anything is done: is this the machine, and does it let us in?
#include <fmt/format.h>
#include <libssh/libssh.h>

#include <fstream>
#include <sstream>
#include <vector>

#include "broker/ssh/ssh_session.hpp"

namespace muster {
namespace {

constexpr auto kLasting = NodeError::Kind::lasting;

struct Key {
  ssh_key key = nullptr;
  Key() = default;
  ~Key() { ssh_key_free(key); }
  Key(const Key&) = delete;
  Key& operator=(const Key&) = delete;
};

std::string take(char* text) {
  if (text == nullptr) return {};
  std::string copy = text;
  ssh_string_free_char(text);
  return copy;
}

std::vector<std::string> known_hosts_files(ssh_session session) {
  return {ssh_option(session, SSH_OPTIONS_KNOWNHOSTS),
          ssh_option(session, SSH_OPTIONS_GLOBAL_KNOWNHOSTS)};
}

std::string fingerprint(ssh_key key) {
  unsigned char* hash = nullptr;
  std::size_t size = 0;
  if (ssh_get_publickey_hash(key, SSH_PUBLICKEY_HASH_SHA256, &hash, &size) != SSH_OK) return "?";
  std::string text = take(ssh_get_fingerprint_hash(SSH_PUBLICKEY_HASH_SHA256, hash, size));
  ssh_clean_pubkey_hash(&hash);
  return text;
}

// A host as known_hosts writes it.
std::string place_name(const SshTarget& target) {
  return target.port == 22 ? target.host : fmt::format("[{}]:{}", target.host, target.port);
}

// "FILE:LINE" of every line about the host.
std::string known_lines(const std::vector<std::string>& files, const SshTarget& target) {
  std::string places;
  for (const std::string& file : files) {
    std::ifstream stream(file);
    std::string line;
    for (int number = 1; std::getline(stream, line); ++number) {
      ssh_knownhosts_entry* entry = nullptr;
      const int found =
          ssh_known_hosts_parse_line(place_name(target).c_str(), line.c_str(), &entry);
      if (found != SSH_OK) continue;
      ssh_knownhosts_entry_free(entry);
      places += fmt::format("{}{}:{}", places.empty() ? "" : ", ", file, number);
    }
  }
  return places;
}

// libssh knows no "@revoked" lines.
std::string revoking_line(const std::vector<std::string>& files, ssh_key key) {
  char* encoded = nullptr;
  if (ssh_pki_export_pubkey_base64(key, &encoded) != SSH_OK) return {};
  const std::string base64 = take(encoded);
  for (const std::string& file : files) {
    std::ifstream stream(file);
    std::string line;
    for (int number = 1; std::getline(stream, line); ++number) {
      std::istringstream words(line);
      std::string marker;
      std::string hosts;
      std::string type;
      std::string known;
      words >> marker >> hosts >> type >> known;
      if (marker == "@revoked" && known == base64) return fmt::format("{}:{}", file, number);
    }
  }
  return {};
}

std::string method_names(int methods) {
  std::string names;
  const auto add = [&](int method, const char* name) {
    if ((methods & method) != 0) names += (names.empty() ? "" : ", ") + std::string(name);
  };
  add(SSH_AUTH_METHOD_PUBLICKEY, "publickey");
  add(SSH_AUTH_METHOD_PASSWORD, "password");
  add(SSH_AUTH_METHOD_INTERACTIVE, "keyboard-interactive");
  add(SSH_AUTH_METHOD_HOSTBASED, "hostbased");
  add(SSH_AUTH_METHOD_GSSAPI_MIC, "gssapi-with-mic");
  return names.empty() ? "nothing that libssh knows" : names;
}

int refuse_passphrase(const char*, char*, std::size_t, int, int, void* asked) {
  *static_cast<bool*>(asked) = true;
  return -1;
}

[[noreturn]] void fail_login(const std::string& text) { throw NodeError(kLasting, "login", text); }

// One attempt to log in after the other.
class Attempts {
 public:
  Attempts(SshSession& session, Deadline deadline) : session_(session), deadline_(deadline) {}

  int none() {
    return attempt([this] { return ssh_userauth_none(session_.get(), nullptr); });
  }
  int agent() {
    asked_agent_ = true;
    return attempt([this] { return ssh_userauth_agent(session_.get(), nullptr); });
  }
  int file(const std::string& path, bool must_exist);

  bool asked_agent() const { return asked_agent_; }
  const std::string& encrypted() const { return encrypted_; }  // a file that wants a passphrase

 private:
  int attempt(const std::function<int()>& call) {
    const int result = session_.until(call, SSH_AUTH_AGAIN, deadline_, "login");
    if (result == SSH_AUTH_ERROR && ssh_is_connected(session_.get()) == 0) {
      const NodeError broken = session_.broken("login");
      if (std::string_view(broken.what()).find("Too many auth") == std::string_view::npos) {
        throw broken;
      }
      fail_login(
          fmt::format("{} has seen too many keys that it does not know; name the right one "
                      "with `identity`, or set IdentitiesOnly yes in ~/.ssh/config",
                      session_.target().host));
    }
    return result;
  }
  int key(ssh_key key) {
    return attempt([&] { return ssh_userauth_publickey(session_.get(), nullptr, key); });
  }

  SshSession& session_;
  Deadline deadline_;
  bool asked_agent_ = false;
  std::string encrypted_;
};

int Attempts::file(const std::string& path, bool must_exist) {
  bool asked = false;
  Key secret;
  const int read =
      ssh_pki_import_privkey_file(path.c_str(), nullptr, refuse_passphrase, &asked, &secret.key);
  if (asked && encrypted_.empty()) encrypted_ = path;
  if (read != SSH_OK) {
    if (asked || !must_exist) return SSH_AUTH_DENIED;
    fail_login(
        read == SSH_EOF
            ? fmt::format("cannot read the key '{}'; check `identity` and the file's mode", path)
            : fmt::format("'{}' is not a private key that libssh understands; check "
                          "`identity`, or use via = \"openssh\"",
                          path));
  }
  Key certified;
  Key certificate;
  if (ssh_pki_import_cert_file((path + "-cert.pub").c_str(), &certificate.key) == SSH_OK) {
    certified.key = ssh_key_dup(secret.key);
    if (ssh_pki_copy_cert_to_privkey(certificate.key, certified.key) == SSH_OK) {
      const int result = key(certified.key);
      if (result != SSH_AUTH_DENIED) return result;
    }
  }
  return key(secret.key);
}

std::string refusal(const SshTarget& target, const Identities& identities,
                    const std::string& encrypted, int methods) {
  std::string text = fmt::format("{} refuses the login of '{}'; it offers: {}. ", target.host,
                                 target.user, method_names(methods));
  if (!encrypted.empty()) {
    return text + fmt::format(
                      "The key '{}' has a passphrase and no agent holds it: run "
                      "'ssh-add {}' first",
                      encrypted, encrypted);
  }
  if ((methods & SSH_AUTH_METHOD_PUBLICKEY) == 0) {
    return text +
           "Muster logs in with keys only: allow PubkeyAuthentication there, or use via = "
           "\"openssh\"";
  }
  const std::string key =
      identities.must_exist ? fmt::format(" -i {}.pub", identities.files.front()) : "";
  return text + fmt::format(
                    "Check `user` and `identity`, or put a key there: "
                    "ssh-copy-id -p {}{} {}@{}",
                    target.port, key, target.user, target.host);
}

}  // namespace

std::string ssh_option(ssh_session session, ssh_options_e which) {
  char* value = nullptr;
  return ssh_options_get(session, which, &value) == SSH_OK ? take(value) : std::string();
}

void check_host_key(ssh_session session, const SshTarget& target) {
  Key key;
  if (ssh_get_server_publickey(session, &key.key) != SSH_OK) {
    throw NodeError(kLasting, "host key", fmt::format("{} showed no host key", target.host));
  }
  const auto files = known_hosts_files(session);
  const char* type = ssh_key_type_to_char(ssh_key_type(key.key));
  const std::string shown =
      fmt::format("{} {}", type != nullptr ? type : "?", fingerprint(key.key));
  if (const std::string place = revoking_line(files, key.key); !place.empty()) {
    throw NodeError(kLasting, "host key",
                    fmt::format("{} shows the key {}, which {} revokes: somebody else may have it; "
                                "give the node a new one",
                                target.host, shown, place));
  }
  const ssh_known_hosts_e verdict = ssh_session_is_known_server(session);
  if (verdict == SSH_KNOWN_HOSTS_OK) return;
  const std::string compare =
      "compare the fingerprint with what 'ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub' says "
      "on the node itself";
  const std::string accept =
      fmt::format("ssh-keyscan -p {} {} >> {}", target.port, target.host, files.front());
  if (verdict == SSH_KNOWN_HOSTS_CHANGED || verdict == SSH_KNOWN_HOSTS_OTHER) {
    throw NodeError(
        kLasting, "host key",
        fmt::format("the host key of {} is not the one in {}: it shows {}. Either the machine was "
                    "reinstalled, or somebody is in between: {}; if it is right, run: "
                    "ssh-keygen -f {} -R '{}' && {}",
                    target.host, known_lines(files, target), shown, compare, files.front(),
                    place_name(target), accept));
  }
  if (verdict == SSH_KNOWN_HOSTS_ERROR) {
    throw NodeError(kLasting, "host key",
                    fmt::format("cannot look up the host key of {} in {}: {}", target.host,
                                files.front(), ssh_get_error(session)));
  }
  throw NodeError(kLasting, "host key",
                  fmt::format("the host key of {} is not in {}: it shows {}; {}; if it is right, "
                              "run: {} (or, once: ssh -p {} {}@{})",
                              target.host, files.front(), shown, compare, accept, target.port,
                              target.user, target.host));
}

void log_in(SshSession& session, const Identities& identities, Deadline deadline) {
  Attempts attempts(session, deadline);
  if (attempts.none() == SSH_AUTH_SUCCESS) return;
  const int methods = ssh_userauth_list(session.get(), nullptr);
  int result = SSH_AUTH_DENIED;
  if ((methods & SSH_AUTH_METHOD_PUBLICKEY) != 0) {
    const auto failed = [&] { return result != SSH_AUTH_SUCCESS && result != SSH_AUTH_PARTIAL; };
    if (identities.agent_first) result = attempts.agent();
    for (const std::string& file : identities.files) {
      if (failed()) result = attempts.file(file, identities.must_exist);
    }
    if (failed() && !attempts.encrypted().empty() && !attempts.asked_agent()) {
      result = attempts.agent();
    }
  }
  if (result == SSH_AUTH_SUCCESS) return;
  if (result == SSH_AUTH_PARTIAL) {
    fail_login(
        fmt::format("{} accepts the key of '{}' but wants more: {}; use via = \"openssh\" "
                    "with a shared connection (ControlMaster)",
                    session.target().host, session.target().user,
                    method_names(ssh_userauth_list(session.get(), nullptr))));
  }
  fail_login(refusal(session.target(), identities, attempts.encrypted(), methods));
}

}  // namespace muster
