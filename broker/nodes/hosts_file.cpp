#include "broker/nodes/hosts_file.hpp"

#include <fmt/format.h>
#include <pwd.h>
#include <toml++/toml.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <stdexcept>
#include <utility>

#include "broker/nodes/host_text.hpp"
#include "common/limits.hpp"

namespace muster {
namespace {

constexpr std::size_t kMostHosts = limits::kMaxStatusRows;  // so that STATUS shows them all
constexpr std::size_t kMostLabels = 64;                     // of a worker, docs/protocol.md
constexpr std::int64_t kMostSeconds = 30 * 24 * 3600;

// Which text is read, for messages and for relative paths.
struct Place {
  const std::string& origin;
  const std::string& folder;

  [[noreturn]] void fail(const toml::source_region& at, const std::string& text) const {
    throw std::invalid_argument(
        fmt::format("{}:{}:{}: {}", origin, at.begin.line, at.begin.column, text));
  }
};

std::string home_folder() {
  if (const char* home = std::getenv("HOME"); home != nullptr && *home != '\0') return home;
  const passwd* entry = getpwuid(getuid());
  return entry == nullptr ? "/" : entry->pw_dir;
}

// One `key = value`.
class Value {
 public:
  Value(const Place& place, std::string key, const toml::node& node)
      : place_(place), key_(std::move(key)), node_(node) {}

  [[noreturn]] void fail(const std::string& text) const { place_.fail(node_.source(), text); }
  // Runs a check of host_text.hpp, whose complaint gets this value's place.
  template <typename Check>
  auto checked(const Check& check) const {
    try {
      return check();
    } catch (const std::invalid_argument& error) {
      fail(fmt::format("{}: {}", key_, error.what()));
    }
  }

  std::string text() const {
    const auto* value = node_.as_string();
    if (value == nullptr) fail(fmt::format("{} must be a text in quotes{}", key_, example()));
    if (value->get().find('\0') != std::string::npos) fail(key_ + " holds a NUL character");
    return value->get();
  }
  std::string word() const {
    std::string result = text();
    if (result.empty()) fail(key_ + " is empty; leave it out for its default");
    const bool odd = std::any_of(result.begin(), result.end(),
                                 [](unsigned char c) { return c < 0x20 || c == 0x7f; });
    if (odd) fail(key_ + " holds a control character");
    return result;
  }
  std::int64_t integer(std::int64_t least, std::int64_t most) const {
    const auto* value = node_.as_integer();
    if (value == nullptr) fail(key_ + " must be a whole number");
    if (value->get() < least || value->get() > most) {
      fail(fmt::format("{} must be between {} and {}, not {}", key_, least, most, value->get()));
    }
    return value->get();
  }
  double number() const {
    if (!node_.is_number()) fail(key_ + " must be a number");
    const double value = node_.value<double>().value_or(-1);
    if (!std::isfinite(value) || value < 0) fail(key_ + " must be 0 or more");
    return value;
  }
  bool flag() const {
    const auto* value = node_.as_boolean();
    if (value == nullptr) fail(key_ + " must be true or false");
    return value->get();
  }
  std::string choice(const std::vector<std::string_view>& words) const {
    std::string result = text();
    if (std::find(words.begin(), words.end(), result) != words.end()) return result;
    fail(fmt::format("{} must be \"{}\", not {}", key_, fmt::join(words, "\" or \""),
                     quote(result)));
  }
  // A file or folder of this machine.
  std::string path() const {
    const std::string given = word();
    if (given == "~" || given.starts_with("~/")) return home_folder() + given.substr(1);
    if (given.starts_with('~')) {
      fail(fmt::format("{}: {} is another user's folder; write its path", key_, quote(given)));
    }
    if (given.starts_with('/')) return given;
    if (place_.folder.empty()) {
      fail(
          fmt::format("{}: {} is a relative path, and there is no file that it could count from; "
                      "write an absolute one",
                      key_, quote(given)));
    }
    return (std::filesystem::path(place_.folder) / given).lexically_normal().string();
  }
  std::vector<Value> items() const {
    const auto* array = node_.as_array();
    if (array == nullptr) {
      fail(fmt::format("{} must be a list: {} = [\"...\"]", key_, key_));
    }
    std::vector<Value> result;
    for (const toml::node& item : *array) result.emplace_back(place_, "an entry of " + key_, item);
    return result;
  }
  // Names and texts. The texts may be secrets: no message repeats them.
  std::vector<std::pair<std::string, std::string>> variables() const {
    const auto* table = node_.as_table();
    if (table == nullptr) fail(key_ + " must be a table: " + key_ + " = { NAME = \"value\" }");
    std::vector<std::pair<std::string, std::string>> result;
    for (const auto& [name, node] : *table) {
      const std::string variable(name.str());
      const Value value(place_, key_ + "." + variable, node);
      const bool usable = !variable.empty() &&
                          variable.find_first_of("=\n\r\t ") == variable.npos &&
                          variable.find('\0') == variable.npos;
      if (!usable) place_.fail(name.source(), quote(variable) + " is no name of a variable");
      result.emplace_back(variable, value.text());
    }
    return result;
  }
  const toml::node& node() const { return node_; }

 private:
  std::string example() const {
    return node_.is_number() && key_ == "python" ? ": python = \"3.11\"" : "";
  }

  const Place& place_;
  std::string key_;
  const toml::node& node_;
};

void read_address(const Value& value, Host& host) {
  const std::string text = value.word();
  if (is_bare_ipv6(text)) {
    host.address = text;
    return;
  }
  const ShortHost parts = value.checked([&] { return split_short_host(text); });
  host.address = parts.address;
  if (!parts.user.empty()) host.user = parts.user;
  if (parts.port != 0) host.port = parts.port;
  if (parts.slots != 0) host.slots = parts.slots;
}

void read_python(const Value& value, Host& host) {
  host.python = value.word();
  if (host.python.find('/') != std::string::npos) return;
  const auto digits = [](unsigned char c) { return std::isdigit(c) != 0 || c == '.'; };
  const bool version = std::all_of(host.python.begin(), host.python.end(), digits) &&
                       host.python.find('.') != std::string::npos &&
                       std::isdigit(static_cast<unsigned char>(host.python.front())) != 0 &&
                       std::isdigit(static_cast<unsigned char>(host.python.back())) != 0;
  if (!version) {
    value.fail(
        fmt::format("python must be a version like \"3.11\" or the path of an interpreter "
                    "on the node, not {}",
                    quote(host.python)));
  }
}

void read_pip(const Value& value, Host& host) {
  host.pip.clear();
  for (const Value& item : value.items()) {
    host.pip.push_back(item.word());
    if (host.pip.back().front() == '-') {
      item.fail(quote(host.pip.back()) +
                " is an option of pip; name packages only, and use `wheels` for a folder of them");
    }
  }
}

void read_labels(const Value& value, Host& host) {
  host.labels.clear();
  for (const Value& item : value.items()) {
    host.labels.push_back(item.word());
    if (host.labels.back().size() > limits::kMaxNameBytes) item.fail("a label is too long");
  }
  if (host.labels.size() > kMostLabels) value.fail("a node has at most 64 labels");
}

// Variables of [defaults] stay unless the host has them, too.
void read_environment(const Value& value, Host& host) {
  for (auto& [name, text] : value.variables()) {
    const auto same = [&, &name = name](const auto& other) { return other.first == name; };
    std::erase_if(host.environment, same);
    host.environment.emplace_back(std::move(name), std::move(text));
  }
}

void read_memory(const Value& value, Host& host) {
  constexpr std::int64_t kLeast = std::int64_t{1} << 20;
  if (value.node().is_string()) {
    const std::string text = value.text();
    host.max_memory_bytes = value.checked([&] { return parse_memory(text); });
  } else if (value.node().is_integer()) {
    host.max_memory_bytes = static_cast<std::uint64_t>(value.integer(0, INT64_MAX));
  } else {
    value.fail("max_memory must be a size like \"8GB\"");
  }
  if (host.max_memory_bytes < kLeast) value.fail("max_memory is less than 1 MB; write \"8GB\"");
}

using Reader = void (*)(const Value& value, Host& host);

std::chrono::seconds seconds(const Value& value, std::int64_t least) {
  return std::chrono::seconds(value.integer(least, kMostSeconds));
}

// clang-format off
const std::map<std::string_view, Reader>& readers() {
  static const std::map<std::string_view, Reader> table = {
      {"name", [](const Value& value, Host& host) {
         host.name = value.word();
         value.checked([&] { check_node_name(host.name); });
       }},
      {"address", read_address},
      {"user", [](const Value& value, Host& host) {
         host.user = value.word();
         value.checked([&] { check_user(host.user); });
       }},
      {"port", [](const Value& value, Host& host) {
         host.port = static_cast<std::uint16_t>(value.integer(1, 65535));
       }},
      {"identity", [](const Value& value, Host& host) { host.identity = value.path(); }},
      {"jump", [](const Value& value, Host& host) {
         host.jump = value.word();
         value.checked([&] { check_jump(host.jump); });
       }},
      {"known_hosts", [](const Value& value, Host& host) { host.known_hosts = value.path(); }},
      {"ssh_config", [](const Value& value, Host& host) { host.ssh_config = value.path(); }},
      {"via", [](const Value& value, Host& host) {
         host.via = value.choice({"libssh", "openssh"}) == "openssh" ? Via::openssh : Via::libssh;
       }},
      {"reverse_port", [](const Value& value, Host& host) {
         host.reverse_port = static_cast<std::uint16_t>(value.integer(1, 65535));
       }},
      {"connect_timeout", [](const Value& value, Host& host) {
         host.connect_timeout = std::chrono::seconds(value.integer(1, 3600));
       }},
      {"standing", [](const Value& value, Host& host) { host.standing = value.flag(); }},
      {"slots", [](const Value& value, Host& host) {
         host.slots = static_cast<std::uint32_t>(value.integer(1, limits::kMaxSlots));
       }},
      {"executor", [](const Value& value, Host& host) {
         host.executor = value.choice({"process", "thread"});
       }},
      {"labels", read_labels},
      {"environment", read_environment},
      {"directory", [](const Value& value, Host& host) { host.directory = value.word(); }},
      {"worker", [](const Value& value, Host& host) { host.worker = value.word(); }},
      {"curve", [](const Value& value, Host& host) { host.curve = value.flag(); }},
      {"orphan_grace", [](const Value& value, Host& host) {
         host.orphan_grace = seconds(value, 0);
       }},
      {"python", read_python},
      {"pip", read_pip},
      {"wheels", [](const Value& value, Host& host) { host.wheels = value.path(); }},
      {"includes", [](const Value& value, Host& host) {
         host.includes.clear();
         for (const Value& item : value.items()) host.includes.push_back(item.path());
       }},
      {"nice", [](const Value& value, Host& host) {
         host.nice = static_cast<int>(value.integer(0, 19));
       }},
      {"max_cores", [](const Value& value, Host& host) {
         host.max_cores = static_cast<std::uint32_t>(value.integer(1, limits::kMaxSlots));
       }},
      {"max_memory", read_memory},
      {"pause_load", [](const Value& value, Host& host) { host.pause_load = value.number(); }},
  };
  return table;
}
// clang-format on

class HostsReader {
 public:
  HostsReader(const std::string& origin, const std::string& folder) : place_{origin, folder} {}

  std::vector<Host> read(const toml::table& root) {
    for (const auto& [key, node] : root) check_top_key(key);
    if (const toml::node* defaults = root.get("defaults")) {
      const toml::table* table = defaults->as_table();
      if (table == nullptr) place_.fail(defaults->source(), "write [defaults] as a table");
      for (const auto& [key, node] : *table) {
        if (key == "name" || key == "address") {
          place_.fail(key.source(),
                      fmt::format("{} is each host's own: write it under [[host]]", key.str()));
        }
        read_key(key, node, defaults_);
      }
    }
    if (const toml::node* hosts = root.get("hosts")) read_short_hosts(*hosts);
    if (const toml::node* hosts = root.get("host")) read_tables(*hosts);
    if (hosts_.empty()) {
      place_.fail(toml::source_region{{1, 1}, {1, 1}, nullptr},
                  "no host is named; write hosts = [\"user@address\"] or [[host]]");
    }
    return std::move(hosts_);
  }

 private:
  void check_top_key(const toml::key& key) const {
    const std::vector<std::string_view> known = {"hosts", "defaults", "host"};
    const std::string_view name = key.str();
    if (std::find(known.begin(), known.end(), name) != known.end()) return;
    if (readers().contains(name)) {
      place_.fail(key.source(),
                  fmt::format("{} stands outside of every host; write it under [[host]], or under "
                              "[defaults] for all",
                              name));
    }
    place_.fail(key.source(), unknown(name, known));
  }
  static std::string unknown(std::string_view name, const std::vector<std::string_view>& known) {
    const std::string meant = nearest(name, known);
    return fmt::format("there is no key {}; {}", quote(name),
                       meant.empty() ? fmt::format("known are {}", fmt::join(known, ", "))
                                     : fmt::format("did you mean '{}'?", meant));
  }

  void read_key(const toml::key& key, const toml::node& node, Host& host) const {
    const auto reader = readers().find(key.str());
    if (reader == readers().end()) {
      std::vector<std::string_view> known;
      for (const auto& entry : readers()) known.push_back(entry.first);
      place_.fail(key.source(), unknown(key.str(), known));
    }
    reader->second(Value(place_, std::string(key.str()), node), host);
  }

  void read_short_hosts(const toml::node& node) {
    const toml::array* array = node.as_array();
    if (array == nullptr) {
      place_.fail(node.source(), "hosts must be a list: hosts = [\"node1\", \"ada@node2:2222*8\"]");
    }
    for (const toml::node& item : *array) {
      if (item.is_table()) {
        place_.fail(item.source(), "hosts is a list of texts; a host with keys is a [[host]]");
      }
      Host host = defaults_;
      const Value value(place_, "hosts", item);
      if (is_bare_ipv6(value.word())) {
        value.checked([&] { split_short_host(value.text()); });  // says: in brackets
      }
      read_address(value, host);
      add(std::move(host), item.source());
    }
  }

  void read_tables(const toml::node& node) {
    const toml::array* array = node.as_array();
    if (array == nullptr) {
      place_.fail(node.source(), "write [[host]] in two brackets, once for every host");
    }
    for (const toml::node& item : *array) {
      const toml::table* table = item.as_table();
      if (table == nullptr) place_.fail(item.source(), "a host is a table: write [[host]]");
      read_table(*table);
    }
  }

  void read_table(const toml::table& table) {
    Host host = defaults_;
    // First: it may say user, port and slots, too, and those keys then say it a second time.
    const toml::node* address = table.get("address");
    if (address != nullptr) {
      Host said;
      read_address(Value(place_, "address", *address), said);
      refuse_twice(table, "user", !said.user.empty());
      refuse_twice(table, "port", said.port != 0);
      refuse_twice(table, "slots", said.slots != 0);
      read_address(Value(place_, "address", *address), host);
    }
    for (const auto& [key, node] : table) {
      if (key != "address") read_key(key, node, host);
    }
    if (address == nullptr) place_.fail(table.source(), "this host has no address");
    if (host.standing && host.reverse_port == 0) {
      place_.fail(table.source(), "standing = true needs reverse_port: where its service connects");
    }
    add(std::move(host), table.source());
  }
  void refuse_twice(const toml::table& table, std::string_view key, bool in_address) const {
    const toml::node* node = table.get(key);
    if (node == nullptr || !in_address) return;
    place_.fail(node->source(), fmt::format("{} is said by address already", key));
  }

  void add(Host&& host, const toml::source_region& at) {
    if (host.name.empty()) host.name = host.address;
    const auto [known, is_new] = lines_.emplace(host.name, at.begin.line);
    if (!is_new) {
      place_.fail(at, fmt::format("the name {} is taken by the host in line {}; give one of them "
                                  "another name",
                                  quote(host.name), known->second));
    }
    if (hosts_.size() == kMostHosts) {
      place_.fail(at, fmt::format("there are more than {} hosts", kMostHosts));
    }
    if (host.standing && host.reverse_port == 0) {
      place_.fail(at, "standing = true needs reverse_port: where its service connects");
    }
    hosts_.push_back(std::move(host));
  }

  Place place_;
  Host defaults_;
  std::vector<Host> hosts_;
  std::map<std::string, toml::source_index> lines_;  // where each name was given
};

}  // namespace

std::vector<Host> parse_hosts(std::string_view text, const std::string& origin,
                              const std::string& folder) {
  toml::table root;
  try {
    root = toml::parse(text, origin);
  } catch (const toml::parse_error& error) {
    Place{origin, folder}.fail(error.source(), std::string(error.description()));
  }
  return HostsReader(origin, folder).read(root);
}

Host parse_short_host(std::string_view text) {
  const ShortHost parts = split_short_host(text);
  Host host;
  host.name = host.address = parts.address;
  host.user = parts.user;
  host.port = parts.port;
  host.slots = parts.slots;
  return host;
}

}  // namespace muster
