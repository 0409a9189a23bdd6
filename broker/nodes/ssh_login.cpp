// The two questions before anything is done: is this the machine, and does it let us in?
#include <fmt/format.h>
#include <libssh/callbacks.h>
#include <libssh/libssh.h>

#include <fstream>
#include <sstream>
#include <vector>

#include "broker/nodes/ssh_session.hpp"

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

std::string file_option(ssh_session session, ssh_options_e which) {
  char* value = nullptr;
  return ssh_options_get(session, which, &value) == SSH_OK ? take(value) : std::string();
}

std::vector<std::string> known_hosts_files(ssh_session session) {
  return {file_option(session, SSH_OPTIONS_KNOWNHOSTS),
          file_option(session, SSH_OPTIONS_GLOBAL_KNOWNHOSTS)};
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

// Which key files wanted a passphrase; nobody is asked for one.
struct Passphrases {
  ssh_session session = nullptr;
  std::string file;
  std::vector<std::string> refused;

  static int ask(const char*, char*, std::size_t, int, int, void* user) {
    auto* self = static_cast<Passphrases*>(user);
    char* current = nullptr;
    std::string name = self->file;
    if (ssh_userauth_publickey_auto_get_current_identity(self->session, &current) == SSH_OK) {
      name = take(current);
    }
    self->refused.push_back(name.empty() ? "a key" : name);
    return -1;
  }
};

// Takes the callbacks away before they are gone.
class AskNobody {
 public:
  explicit AskNobody(ssh_session session) : session_(session) {
    passphrases.session = session;
    ssh_callbacks_init(&callbacks_);
    callbacks_.userdata = &passphrases;
    callbacks_.auth_function = Passphrases::ask;
    ssh_set_callbacks(session, &callbacks_);
  }
  ~AskNobody() {
    callbacks_.auth_function = nullptr;
    ssh_set_callbacks(session_, &nothing());
  }
  AskNobody(const AskNobody&) = delete;
  AskNobody& operator=(const AskNobody&) = delete;

  Passphrases passphrases;

 private:
  static ssh_callbacks_struct& nothing() {
    static ssh_callbacks_struct callbacks = [] {
      ssh_callbacks_struct made{};
      ssh_callbacks_init(&made);
      return made;
    }();
    return callbacks;
  }

  ssh_session session_;
  ssh_callbacks_struct callbacks_{};
};

[[noreturn]] void fail_login(const std::string& text) { throw NodeError(kLasting, "login", text); }

// Tries the key in `identity`; an encrypted one is left to the agent.
int try_identity(SshSession& session, const std::string& identity, Passphrases& passphrases,
                 Deadline deadline) {
  passphrases.file = identity;
  Key key;
  const int read = ssh_pki_import_privkey_file(identity.c_str(), nullptr, Passphrases::ask,
                                               &passphrases, &key.key);
  if (read == SSH_EOF) {
    fail_login(
        fmt::format("cannot read the key '{}'; check `identity` and the file's mode", identity));
  }
  if (read != SSH_OK && passphrases.refused.empty()) {
    fail_login(
        fmt::format("'{}' is no private key that libssh understands; check `identity`, or "
                    "use via = \"openssh\"",
                    identity));
  }
  if (read == SSH_OK) {
    return session.until([&] { return ssh_userauth_publickey(session.get(), nullptr, key.key); },
                         SSH_AUTH_AGAIN, deadline, "login");
  }
  return session.until([&] { return ssh_userauth_agent(session.get(), nullptr); }, SSH_AUTH_AGAIN,
                       deadline, "login");
}

std::string refusal(const SshTarget& target, const std::string& identity,
                    const Passphrases& passphrases, int methods) {
  std::string text = fmt::format("{} refuses the login of '{}'; it offers: {}. ", target.host,
                                 target.user, method_names(methods));
  if (!passphrases.refused.empty()) {
    return text + fmt::format(
                      "The key '{}' has a passphrase and no agent holds it: run "
                      "'ssh-add {}' first",
                      passphrases.refused.front(), passphrases.refused.front());
  }
  if ((methods & SSH_AUTH_METHOD_PUBLICKEY) == 0) {
    return text +
           "Muster logs in with keys only: allow PubkeyAuthentication there, or use via = "
           "\"openssh\"";
  }
  const std::string key = identity.empty() ? "" : fmt::format(" -i {}.pub", identity);
  return text + fmt::format(
                    "Check `user` and `identity`, or put a key there: "
                    "ssh-copy-id -p {}{} {}@{}",
                    target.port, key, target.user, target.host);
}

}  // namespace

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
                    "installed anew, or somebody is in between: {}; if it is right, run: "
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

void log_in(SshSession& session, const std::string& identity, Deadline deadline) {
  const auto check = [&](int result) {
    if (result == SSH_AUTH_ERROR && ssh_is_connected(session.get()) == 0) {
      throw session.broken("login");
    }
    return result;
  };
  AskNobody asker(session.get());
  const int none = check(session.until([&] { return ssh_userauth_none(session.get(), nullptr); },
                                       SSH_AUTH_AGAIN, deadline, "login"));
  if (none == SSH_AUTH_SUCCESS) return;
  const int methods = ssh_userauth_list(session.get(), nullptr);
  int result = SSH_AUTH_DENIED;
  if ((methods & SSH_AUTH_METHOD_PUBLICKEY) != 0) {
    result = identity.empty()
                 ? session.until(
                       [&] { return ssh_userauth_publickey_auto(session.get(), nullptr, nullptr); },
                       SSH_AUTH_AGAIN, deadline, "login")
                 : try_identity(session, identity, asker.passphrases, deadline);
    check(result);
  }
  if (result == SSH_AUTH_SUCCESS) return;
  if (result == SSH_AUTH_PARTIAL) {
    fail_login(
        fmt::format("{} accepts the key of '{}' but wants more: {}; use via = \"openssh\" "
                    "with a shared connection (ControlMaster)",
                    session.target().host, session.target().user,
                    method_names(ssh_userauth_list(session.get(), nullptr))));
  }
  fail_login(refusal(session.target(), identity, asker.passphrases, methods));
}

}  // namespace muster
