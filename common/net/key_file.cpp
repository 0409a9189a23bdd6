#include "common/net/key_file.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zmq.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <sstream>
#include <string_view>

#include "common/net/transport.hpp"
#include "common/system/descriptor.hpp"

namespace muster {
namespace {

constexpr std::size_t kKeyCharacters = 40;
constexpr std::size_t kMaxFileBytes = std::size_t{16} << 20;  // a hundred thousand workers
constexpr std::size_t kMaxNameBytes = 255;
constexpr const char* kMakeOne = "make one with `muster keygen`";

bool is_credential(const std::string& path) {
  const char* folder = std::getenv("CREDENTIALS_DIRECTORY");
  return folder != nullptr && *folder != '\0' && path.find("/../") == std::string::npos &&
         path.rfind(std::string(folder) + "/", 0) == 0;
}

// The text of a file of which others have none of the rights `forbidden`.
std::string read_private(const std::string& path, mode_t forbidden, const char* what,
                         const char* mode) {
  const Descriptor file(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK));
  if (!file) {
    throw TransportError(fmt::format("cannot read {} '{}': {}", what, path, std::strerror(errno)));
  }
  struct stat status {};
  if (fstat(file.get(), &status) != 0 || !S_ISREG(status.st_mode)) {
    throw TransportError(fmt::format("{} '{}' is not a file", what, path));
  }
  if ((status.st_mode & forbidden) != 0 && !is_credential(path)) {
    throw TransportError(
        fmt::format("{} '{}' is open to others (mode {:04o}); if nobody has used that: chmod {} {}",
                    what, path, status.st_mode & 07777U, mode, path));
  }
  std::string text;
  std::array<char, 4096> part{};
  ssize_t count = 0;
  while ((count = read(file.get(), part.data(), part.size())) > 0) {
    text.append(part.data(), static_cast<std::size_t>(count));
    if (text.size() > kMaxFileBytes) {
      throw TransportError(fmt::format("{} '{}' is too large to be one", what, path));
    }
  }
  if (count < 0) {
    throw TransportError(fmt::format("cannot read {} '{}': {}", what, path, std::strerror(errno)));
  }
  return text;
}

void write_file(const std::string& path, std::string_view text, mode_t mode, bool force) {
  // A new file beside it first: never half a key, and never the old file's rights.
  const std::string fresh = path + ".new";
  unlink(fresh.c_str());
  const Descriptor file(open(fresh.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode));
  const auto size = static_cast<ssize_t>(text.size());
  bool good = file && fchmod(file.get(), mode) == 0 &&
              write(file.get(), text.data(), text.size()) == size && fsync(file.get()) == 0;
  // link(2) replaces nothing, rename(2) does.
  good = good && (force ? rename(fresh.c_str(), path.c_str()) == 0
                        : link(fresh.c_str(), path.c_str()) == 0);
  const int error = errno;
  unlink(fresh.c_str());
  if (good) return;
  if (error == EEXIST && file) {
    throw TransportError(fmt::format(
        "'{}' exists: name another file with --output, or replace it with --force", path));
  }
  throw TransportError(
      fmt::format("cannot write '{}': {}; choose a folder that exists and that you may write to",
                  path, std::strerror(error)));
}

std::vector<std::string> words_of(const std::string& line) {
  std::istringstream stream(line);
  std::vector<std::string> words;
  for (std::string word; stream >> word;) words.push_back(word);
  return words;
}

// Calls visit(number, words) for every line that says something.
template <typename Visit>
void each_line(const std::string& text, Visit&& visit) {
  std::istringstream stream(text);
  std::string line;
  for (int number = 1; std::getline(stream, line); ++number) {
    const std::vector<std::string> words = words_of(line);
    if (!words.empty() && words[0][0] != '#') visit(number, words);
  }
}

struct Field {
  const char* word;
  std::string* value;
};

// Reads `WORD VALUE` lines, each word once; `fail` says what is wrong, and throws.
template <typename Fail>
void read_fields(const std::string& text, std::initializer_list<Field> fields, Fail&& fail) {
  each_line(text, [&](int number, const std::vector<std::string>& words) {
    const auto* field = std::find_if(fields.begin(), fields.end(),
                                     [&](const Field& one) { return words[0] == one.word; });
    if (field == fields.end() || words.size() != 2 || !field->value->empty()) {
      std::string names;
      for (const Field& one : fields)
        names += fmt::format("{}{}", names.empty() ? "" : ", ", one.word);
      fail(fmt::format("line {} is not one of {}", number, names));
    }
    *field->value = words[1];
  });
}

}  // namespace

bool is_key(const std::string& text) {
  std::array<std::uint8_t, 32> key{};
  // libzmq reads any byte as a digit of Z85 and may refuse none: look ourselves, too.
  constexpr std::string_view kDigits =
      "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#";
  return text.size() == kKeyCharacters && text.find_first_not_of(kDigits) == std::string::npos &&
         zmq_z85_decode(key.data(), text.c_str()) != nullptr;
}

bool is_key_name(const std::string& name) {
  constexpr std::string_view kAllowed =
      "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ._-@";
  return !name.empty() && name.size() <= kMaxNameBytes &&
         name.find_first_not_of(kAllowed) == std::string::npos;
}

KeyPair make_key_pair(const std::string& name) {
  std::array<char, kKeyCharacters + 1> public_key{};
  std::array<char, kKeyCharacters + 1> secret_key{};
  do {
    if (zmq_curve_keypair(public_key.data(), secret_key.data()) != 0) {
      throw TransportError(
          "this libzmq was built without CURVE, so there are no keys; install Debian's libzmq5");
    }
  } while (public_key[0] == '#');  // such a line of authorized_workers is a comment
  return {name, public_key.data(), secret_key.data()};
}

std::string public_line(const KeyPair& pair) { return pair.public_key + " " + pair.name; }

void write_key_files(const std::string& path, const KeyPair& pair, bool force) {
  if (!force && access((path + ".pub").c_str(), F_OK) == 0) {
    throw TransportError(fmt::format(
        "'{}.pub' exists: name another file with --output, or replace it with --force", path));
  }
  write_file(path,
             fmt::format("# Secret key of {}, for muster-broker or muster-worker --key. Keep it to "
                         "yourself.\nname {}\npublic {}\nsecret {}\n",
                         pair.name, pair.name, pair.public_key, pair.secret_key),
             0600, force);
  write_file(path + ".pub", public_line(pair) + "\n", 0644, force);
}

KeyPair read_key_file(const std::string& path) {
  KeyPair pair;
  const auto fail = [&path](const std::string& why) {
    throw TransportError(fmt::format("'{}' is not a key file ({}); {}", path, why, kMakeOne));
  };
  read_fields(read_private(path, S_IRWXG | S_IRWXO, "the key file", "600"),
              {{"name", &pair.name}, {"public", &pair.public_key}, {"secret", &pair.secret_key}},
              fail);
  if (!is_key(pair.public_key) || !is_key(pair.secret_key)) fail("a key is missing or mangled");
  std::array<char, kKeyCharacters + 1> derived{};
  if (zmq_curve_public(derived.data(), pair.secret_key.c_str()) != 0 ||
      derived.data() != pair.public_key) {
    fail("its keys do not belong together");
  }
  return pair;
}

SharedSecret make_shared_secret(const std::string& name) {
  // What libzmq makes keys of is as random as words need to be.
  return {name, make_key_pair(name).secret_key, make_key_pair(name).secret_key};
}

void write_secret_file(const std::string& path, const SharedSecret& secret, bool force) {
  write_file(path,
             fmt::format("# For muster-broker --trust-network and muster-worker --secret, on a "
                         "network that you trust.\n# Who has this file may work for this broker. "
                         "Keep it to yourself.\nname {}\npassword {}\nproof {}\n",
                         secret.name, secret.password, secret.proof),
             0600, force);
}

SharedSecret read_secret_file(const std::string& path) {
  SharedSecret secret;
  const auto fail = [&path](const std::string& why) {
    throw TransportError(fmt::format(
        "'{}' is not a file of a shared secret ({}); make one with `muster keygen --secret FILE`",
        path, why));
  };
  read_fields(read_private(path, S_IRWXG | S_IRWXO, "the secret", "600"),
              {{"name", &secret.name}, {"password", &secret.password}, {"proof", &secret.proof}},
              fail);
  if (!is_key_name(secret.name)) fail("its name is missing or mangled");
  if (!is_key(secret.password) || !is_key(secret.proof)) fail("a word is missing or mangled");
  return secret;
}

std::string read_public_key(const std::string& text) {
  if (is_key(text)) return text;
  std::string key;
  const std::string content = read_private(text, 0, "the public key", "644");
  each_line(content, [&](int, const std::vector<std::string>& words) {
    key = key.empty() && words.size() <= 2 && is_key(words[0]) ? words[0] : "-";
  });
  if (is_key(key)) return key;
  throw TransportError(fmt::format(
      "'{}' does not hold one public key; name the .pub file that `muster keygen` made for the "
      "broker, or the key itself",
      text));
}

std::vector<PublicKey> read_authorized_keys(const std::string& path) {
  std::vector<PublicKey> keys;
  const auto fail = [&path](int line, const char* why) {
    throw TransportError(fmt::format("{}:{}: {}", path, line, why));
  };
  each_line(read_private(path, S_IWGRP | S_IWOTH, "the list of authorized workers", "644"),
            [&](int number, const std::vector<std::string>& words) {
              if (words.size() != 2 || !is_key(words[0]) || !is_key_name(words[1])) {
                fail(number, "write `PUBLIC_KEY NAME`, the line that `muster keygen` prints");
              }
              keys.push_back({words[0], words[1]});
            });
  std::vector<std::string> sorted;
  for (const PublicKey& key : keys) sorted.push_back(key.key);
  std::sort(sorted.begin(), sorted.end());
  const auto twice = std::adjacent_find(sorted.begin(), sorted.end());
  if (twice != sorted.end()) {
    throw TransportError(
        fmt::format("{}: the key {} occurs twice; every worker has its own", path, *twice));
  }
  return keys;
}

}  // namespace muster
