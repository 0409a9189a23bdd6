#include "broker/hosts/hosts_file.hpp"

#include <fmt/format.h>
#include <toml++/toml.h>

#include <algorithm>
#include <cctype>
#include <map>
#include <stdexcept>
#include <utility>

#include "broker/hosts/host_text.hpp"
#include "broker/hosts/host_value.hpp"
#include "broker/hosts/plugin.hpp"
#include "common/protocol/limits.hpp"

namespace muster {
namespace {

constexpr std::size_t kMostHosts = limits::kMaxStatusRows;  // so that STATUS shows them all
constexpr std::size_t kMostPlugins = 64;
constexpr std::int64_t kMostSeconds = 30 * 24 * 3600;

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
  if (host.python == kNoPython || host.python.find('/') != std::string::npos) return;
  const auto digits = [](unsigned char c) { return std::isdigit(c) != 0 || c == '.'; };
  const bool version = std::all_of(host.python.begin(), host.python.end(), digits) &&
                       host.python.find('.') != std::string::npos &&
                       std::isdigit(static_cast<unsigned char>(host.python.front())) != 0 &&
                       std::isdigit(static_cast<unsigned char>(host.python.back())) != 0;
  if (!version) {
    value.fail(
        fmt::format("python must be a version like \"3.11\", the path of an interpreter on the "
                    "node, or \"none\", not {}",
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
    if (host.labels.back().size() > limits::kMaxNameBytes) {
      item.fail(fmt::format("a label has at most {} bytes", limits::kMaxNameBytes));
    }
  }
  if (host.labels.size() > limits::kMaxLabels) {
    value.fail(fmt::format("a node has at most {} labels", limits::kMaxLabels));
  }
}

// Their digests come last, once for every file.
void read_plugins(const Value& value, Host& host) {
  host.plugins.clear();
  for (const Value& item : value.items()) {
    Plugin plugin{item.path(), {}};
    item.checked([&] { check_plugin(plugin.path); });
    if (std::find(host.plugins.begin(), host.plugins.end(), plugin) == host.plugins.end()) {
      host.plugins.push_back(std::move(plugin));
    }
  }
  if (host.plugins.size() > kMostPlugins) value.fail("a node has at most 64 plug-ins");
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
  static const std::map<std::string_view, Reader> kTable = {
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
      {"plugins", read_plugins},
      {"nice", [](const Value& value, Host& host) {
         host.nice = static_cast<int>(value.integer(0, 19));
       }},
      {"max_cores", [](const Value& value, Host& host) {
         host.max_cores = static_cast<std::uint32_t>(value.integer(1, limits::kMaxSlots));
       }},
      {"max_memory", read_memory},
      {"pause_load", [](const Value& value, Host& host) { host.pause_load = value.number(); }},
  };
  return kTable;
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
      refuse_ignored(host, nullptr, item.source());
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
    if (address == nullptr) {
      place_.fail(table.source(), "this host has no address; write address = \"HOST\"");
    }
    refuse_ignored(host, &table, table.source());
    add(std::move(host), table.source());
  }
  void refuse_twice(const toml::table& table, std::string_view key, bool in_address) const {
    const toml::node* node = table.get(key);
    if (node == nullptr || !in_address) return;
    place_.fail(node->source(), fmt::format("{} is said by address already", key));
  }

  // Nothing is installed for a worker that is there already.
  void refuse_ignored(const Host& host, const toml::table* table,
                      const toml::source_region& place) const {
    if (host.worker.empty() || (host.pip.empty() && host.wheels.empty())) return;
    const std::string_view ignored = host.pip.empty() ? "wheels" : "pip";
    const toml::node* at = nullptr;
    for (const std::string_view key : {ignored, std::string_view("worker")}) {
      if (table != nullptr && at == nullptr) at = table->get(key);
    }
    place_.fail(at == nullptr ? place : at->source(),
                fmt::format("{} is for the worker that is uploaded; with `worker`, leave it out, "
                            "install the packages on the node, and name their interpreter with "
                            "`python`",
                            ignored));
  }

  const std::string& digest_of(const std::string& plugin, const toml::source_region& at) {
    std::string& digest = digests_[plugin];
    if (!digest.empty()) return digest;
    try {
      return digest = describe_plugin(plugin).digest;
    } catch (const std::invalid_argument& error) {
      place_.fail(at, fmt::format("plugins: {}", error.what()));
    }
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
      place_.fail(at, fmt::format("a broker has at most {} nodes; give the others to another one",
                                  kMostHosts));
    }
    if (host.standing && host.reverse_port == 0) {
      place_.fail(at, "standing = true needs reverse_port: where its service connects");
    }
    for (Plugin& plugin : host.plugins) plugin.digest = digest_of(plugin.path, at);
    hosts_.push_back(std::move(host));
  }

  Place place_;
  Host defaults_;
  std::vector<Host> hosts_;
  std::map<std::string, std::string> digests_;       // of plug-ins
  std::map<std::string, toml::source_index> lines_;  // where each name was given
};

}  // namespace

std::vector<Host> parse_hosts(std::string_view text, const std::string& origin,
                              const std::string& folder) {
  toml::table root;
  try {
    root = toml::parse(text, origin);
  } catch (const toml::parse_error& error) {
    std::string said(error.description());  // quotes the text as it is: it may break the line
    std::replace_if(
        said.begin(), said.end(), [](unsigned char byte) { return byte < ' ' || byte == 127; },
        ' ');
    Place{origin, folder}.fail(error.source(), said);
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
