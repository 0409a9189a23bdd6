#include "broker/hosts/ssh_config.hpp"

#include <fmt/format.h>
#include <fnmatch.h>
#include <glob.h>
#include <pwd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cstdlib>
#include <fstream>
#include <mutex>
#include <set>
#include <string_view>
#include <utility>

namespace muster {
namespace {

constexpr int kMaxDepth = 16;  // of Include; ssh(1) has the same limit

struct Ignored {
  std::string_view keyword;   // in lower case
  std::string_view harmless;  // a value with which the line changes nothing
  std::string_view consequence;
};

constexpr std::array kIgnored{
    Ignored{"hostkeyalias", "", "the host key is looked up under the host's own name"},
    Ignored{"revokedhostkeys", "none", "keys in that file are not refused"},
    Ignored{"canonicalizehostname", "no", "the name is used as it is"},
    Ignored{"certificatefile", "", "the certificate is not offered"},
    Ignored{"pkcs11provider", "none", "keys on that token are not offered"},
    Ignored{"securitykeyprovider", "", "keys on that token are not offered"},
    Ignored{"verifyhostkeydns", "no", "DNS does not vouch for host keys"},
    Ignored{"gssapiauthentication", "no", "Kerberos is not used to log in"},
    Ignored{"hostbasedauthentication", "no", "this way to log in is not used"},
    Ignored{"controlmaster", "no", "connections are not shared"},
    Ignored{"controlpath", "none", "connections are not shared"},
    Ignored{"addressfamily", "any", "IPv4 and IPv6 are both tried"},
    Ignored{"bindinterface", "", "the system chooses the interface"},
    Ignored{"knownhostscommand", "none", "only known_hosts files vouch for host keys"},
};

std::string lower(std::string_view text) {
  std::string result(text);
  for (char& c : result) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return result;
}

// The words of a line: separated by blanks, the first also by '=', quotes kept together.
std::vector<std::string> words_of(const std::string& line) {
  std::vector<std::string> words;
  std::string word;
  bool quoted = false;
  bool begun = false;
  for (const char c : line) {
    const bool blank = std::isspace(static_cast<unsigned char>(c)) != 0;
    if (c == '"') {
      quoted = !quoted;
      begun = true;
    } else if (!quoted && (blank || (c == '=' && words.empty() && begun))) {
      if (begun) words.push_back(std::exchange(word, {}));
      begun = false;
    } else if (!quoted && c == '=' && words.size() == 1 && !begun) {
      // "Keyword = value"
    } else if (!quoted && c == '#' && !begun) {
      break;
    } else {
      word += c;
      begun = true;
    }
  }
  if (begun) words.push_back(word);
  return words;
}

bool matches(const std::string& text, const std::string& pattern) {
  return fnmatch(lower(pattern).c_str(), lower(text).c_str(), FNM_NOESCAPE) == 0;
}

// A list of patterns as Host (separate words) and Match (commas) have them: one that is negated
// rules the line out.
bool matches_any(const std::string& text, const std::vector<std::string>& patterns) {
  bool found = false;
  for (const std::string& pattern : patterns) {
    const bool negated = !pattern.empty() && pattern.front() == '!';
    if (!matches(text, negated ? pattern.substr(1) : pattern)) continue;
    if (negated) return false;
    found = true;
  }
  return found;
}

class Reader {
 public:
  Reader(std::string address, const std::string& user)
      : address_(std::move(address)), host_(address_), user_(user.empty() ? login_name() : user) {}

  void read(const std::string& file, int depth) {
    std::ifstream stream(file);
    std::string line;
    const bool outer = applies_;
    for (int number = 1; std::getline(stream, line); ++number) {
      const std::vector<std::string> words = words_of(line);
      if (words.size() >= 2) take(words, fmt::format("{}:{}", file, number), depth);
    }
    applies_ = outer;  // a Host line inside an included file ends with it
  }

  void start_file() { applies_ = true; }
  SshConfigFindings findings;

 private:
  void take(const std::vector<std::string>& words, const std::string& place, int depth) {
    const std::string keyword = lower(words[0]);
    const std::vector<std::string> values(words.begin() + 1, words.end());
    if (keyword == "host") {
      applies_ = matches_any(address_, values);
    } else if (keyword == "match") {
      applies_ = match(values, place);
    } else if (!applies_) {
      return;
    } else if (keyword == "include") {
      if (depth < kMaxDepth) include(values, depth);
    } else if (keyword == "identityfile") {
      findings.identity_files.push_back(values[0]);
    } else if (seen_.insert(keyword).second) {
      apply(keyword, values, words, place);
    }
  }

  // The first value of a keyword counts, as in ssh(1).
  void apply(const std::string& keyword, const std::vector<std::string>& values,
             const std::vector<std::string>& words, const std::string& place) {
    if (keyword == "hostname") host_ = values[0];
    if (keyword == "identitiesonly") findings.identities_only = lower(values[0]) == "yes";
    if (keyword == "userknownhostsfile" && values.size() > 1) {
      warn(place, words, "only the first file is read");
    }
    for (const Ignored& ignored : kIgnored) {
      // Distributions ship it switched on for everybody: it says nothing about this host.
      if (keyword == "gssapiauthentication" && place.starts_with("/etc/ssh/")) continue;
      if (keyword == ignored.keyword && lower(values[0]) != ignored.harmless) {
        warn(place, words, std::string(ignored.consequence));
      }
    }
  }

  bool match(const std::vector<std::string>& words, const std::string& place) {
    bool result = true;
    for (std::size_t index = 0; index < words.size(); ++index) {
      const bool negated = words[index].front() == '!';
      const std::string what = lower(negated ? words[index].substr(1) : words[index]);
      if (what == "all") continue;
      if (what == "canonical" || what == "final") {
        warn(place, {"Match", what}, "the lines below it are used in the first pass, too");
        continue;
      }
      if (++index == words.size()) return false;
      bool met = false;
      if (what == "host") met = matches_any(host_, split(words[index], ','));
      if (what == "user") met = matches_any(user_, split(words[index], ','));
      if (what == "localuser") met = matches_any(login_name(), split(words[index], ','));
      if (what == "originalhost" || what == "exec" || what == "tagged" || what == "localnetwork") {
        const bool here = what != "originalhost" || matches_any(address_, {words[index]});
        if (here && result) {
          warn(place, {"Match", what},
               what == "exec" ? "what its command decides is not checked here"
                              : "the lines below it are not used");
        }
      }
      result = result && met != negated;
    }
    return result;
  }

  void include(const std::vector<std::string>& patterns, int depth) {
    for (std::string pattern : patterns) {
      if (pattern.starts_with("~/")) pattern.replace(0, 1, ssh_folder() + "/..");
      if (pattern.front() != '/') pattern.insert(0, ssh_folder() + "/");
      glob_t found{};
      if (glob(pattern.c_str(), 0, nullptr, &found) == 0) {
        for (std::size_t index = 0; index < found.gl_pathc; ++index) {
          read(found.gl_pathv[index], depth + 1);
        }
      }
      globfree(&found);
    }
  }

  void warn(const std::string& place, const std::vector<std::string>& words,
            const std::string& consequence) {
    findings.warnings.push_back(
        fmt::format("{}: libssh does not obey '{}': {}; set via = \"openssh\" for this host if "
                    "that matters",
                    place, fmt::join(words, " "), consequence));
  }

  std::string address_;
  std::string host_;  // after HostName
  std::string user_;
  bool applies_ = true;
  std::set<std::string> seen_;
};

}  // namespace

SshConfigFindings examine_ssh_config(const std::vector<std::string>& files,
                                     const std::string& address, const std::string& user) {
  Reader reader(address, user);
  for (const std::string& file : files) {
    reader.start_file();
    reader.read(file, 0);
  }
  return reader.findings;
}

std::string ssh_folder() {
  const char* home = std::getenv("HOME");
  if (home != nullptr && *home == '/') return std::string(home) + "/.ssh";
  const passwd* entry = getpwuid(getuid());
  return std::string(entry != nullptr ? entry->pw_dir : "/") + "/.ssh";
}

std::string login_name() {
  const passwd* entry = getpwuid(getuid());
  return entry != nullptr ? entry->pw_name : "";
}

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts(1);
  for (const char c : text) {
    if (c == separator) {
      parts.emplace_back();
    } else {
      parts.back() += c;
    }
  }
  return parts;
}

bool first_time(const std::string& text) {
  static std::mutex mutex;
  static std::set<std::string> known;
  const std::lock_guard lock(mutex);
  return known.insert(text).second;
}

}  // namespace muster
