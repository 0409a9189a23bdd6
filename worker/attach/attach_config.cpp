#include "worker/attach/attach_config.hpp"

#include <pwd.h>
#include <unistd.h>

#include <limits>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "common/protocol/limits.hpp"
#include "common/system/user_cache.hpp"

namespace muster {
namespace {

using Json = nlohmann::json;

// What may change without another worker.
constexpr const char* kConnectionKeys[] = {"endpoint", "user",         "password", "proof",
                                           "curve",    "orphan_grace", "end_only", "end_seconds"};

[[noreturn]] void refuse(const std::string& key, const char* wanted) {
  throw std::invalid_argument("the configuration's \"" + key + "\" must be " + wanted +
                              ": is the broker of the same Muster version?");
}

class Reader {
 public:
  explicit Reader(const Json& object) : object_(object) {}

  std::string text(const char* key, bool needed = false) const {
    const Json* value = find(key);
    if (value == nullptr && !needed) return {};
    if (value == nullptr || !value->is_string()) refuse(key, "a text");
    auto found = value->get<std::string>();
    if (found.find('\0') != std::string::npos || (needed && found.empty())) refuse(key, "a text");
    return found;
  }
  std::uint64_t number(const char* key, std::uint64_t otherwise, std::uint64_t most) const {
    const Json* value = find(key);
    if (value == nullptr) return otherwise;
    if (!value->is_number_unsigned() || value->get<std::uint64_t>() > most) {
      refuse(key, "a whole number in its range");
    }
    return value->get<std::uint64_t>();
  }
  double real(const char* key) const {
    const Json* value = find(key);
    if (value == nullptr) return 0;
    if (!value->is_number() || value->get<double>() < 0) refuse(key, "a number from 0 on");
    return value->get<double>();
  }
  bool flag(const char* key) const {
    const Json* value = find(key);
    if (value == nullptr) return false;
    if (!value->is_boolean()) refuse(key, "true or false");
    return value->get<bool>();
  }
  std::vector<std::string> texts(const char* key) const {
    std::vector<std::string> all;
    const Json* value = find(key);
    if (value == nullptr) return all;
    if (!value->is_array()) refuse(key, "a list of texts");
    for (const Json& item : *value) {
      if (!item.is_string()) refuse(key, "a list of texts");
      all.push_back(item.get<std::string>());
    }
    return all;
  }
  std::vector<std::pair<std::string, std::string>> table(const char* key) const {
    std::vector<std::pair<std::string, std::string>> all;
    const Json* value = find(key);
    if (value == nullptr) return all;
    if (!value->is_object()) refuse(key, "a table of texts");
    for (const auto& [name, item] : value->items()) {
      if (!item.is_string() || name.empty() || name.find('=') != std::string::npos) {
        refuse(key, "a table of texts");
      }
      all.emplace_back(name, item.get<std::string>());
    }
    return all;
  }
  const Json* find(const char* key) const {
    const auto found = object_.find(key);
    return found == object_.end() || found->is_null() ? nullptr : &*found;
  }

 private:
  const Json& object_;
};

// One component of a path, trusted or not.
bool is_plain_name(const std::string& text) {
  return !text.empty() && text.size() <= 128 && text.front() != '.' &&
         text.find_first_not_of(
             "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
             "._-") == std::string::npos;
}

Login read_login(const Reader& reader) {
  if (const Json* curve = reader.find("curve"); curve != nullptr) {
    if (!curve->is_object()) refuse("curve", "a table of keys");
    const Reader keys(*curve);
    return CurveLogin{keys.text("server_key", true), keys.text("public_key", true),
                      keys.text("secret_key", true)};
  }
  return PlainLogin{reader.text("user", true), reader.text("password", true)};
}

void read_wishes(const Reader& reader, AttachConfig& config) {
  config.node = reader.text("node", true);
  config.version = reader.text("version", true);
  config.slots = static_cast<std::uint32_t>(reader.number("slots", 0, limits::kMaxSlots));
  config.executor = reader.text("executor", true);
  if (config.executor != "process" && config.executor != "thread") {
    refuse("executor", "\"process\" or \"thread\"");
  }
  config.labels = reader.texts("labels");
  config.environment = reader.table("environment");
  config.directory = reader.text("directory");
  config.python = reader.text("python");
  config.python_environment = reader.text("python_environment");
  config.python_path = reader.texts("python_path");
  config.includes = reader.texts("includes");
  for (const std::string& digest : config.includes) {
    if (!is_plain_name(digest)) refuse("includes", "a list of digests");
  }
  config.plugins = reader.texts("plugins");
  for (const std::string& plugin : config.plugins) {
    const std::size_t slash = plugin.find('/');
    const bool parts = slash != plugin.npos && is_plain_name(plugin.substr(0, slash)) &&
                       is_plain_name(plugin.substr(slash + 1));
    if (!parts) refuse("plugins", "a list of DIGEST/NAME");
  }
  if (!config.python_environment.empty() && !is_plain_name(config.python_environment)) {
    refuse("python_environment", "a digest");
  }
  config.nice = static_cast<int>(reader.number("nice", 0, 19));
  config.max_cores = static_cast<std::uint32_t>(
      reader.number("max_cores", 0, std::numeric_limits<std::uint32_t>::max()));
  config.max_memory = reader.number("max_memory", 0, std::numeric_limits<std::uint64_t>::max());
  config.pause_load = reader.real("pause_load");
}

}  // namespace

std::string with_program(std::string_view line, const std::string& program) {
  Json object = Json::parse(line, nullptr, false);
  if (object.is_object()) object["program"] = program;
  return object.dump(-1, ' ', false, Json::error_handler_t::replace);
}

AttachConfig parse_attach_config(std::string_view line) {
  Json object = Json::parse(line, nullptr, false);
  if (!object.is_object()) {
    throw std::invalid_argument(
        "standard input must begin with one line of JSON, the configuration that the broker "
        "sends");
  }
  const Reader reader(object);
  AttachConfig config;
  config.pool = reader.text("pool", true);
  if (!is_plain_name(config.pool)) refuse("pool", "made of letters, digits, '.', '_' and '-'");
  config.end_only = reader.flag("end_only");
  config.end_seconds = std::chrono::seconds(reader.number("end_seconds", 0, 86'400));
  if (config.end_only) return config;
  config.endpoint = reader.text("endpoint", true);
  config.login = read_login(reader);
  check_endpoint(config.endpoint, config.login);
  config.proof = reader.text("proof", true);
  config.orphan_grace = std::chrono::seconds(reader.number("orphan_grace", 600, 31'536'000));
  read_wishes(reader, config);
  for (const char* key : kConnectionKeys) object.erase(key);
  config.settings = object.dump(-1, ' ', false, Json::error_handler_t::replace);
  return config;
}

std::string cache_folder() {
  std::string cache = user_cache();
  if (!cache.empty()) return cache;
  const passwd* user = ::getpwuid(::geteuid());
  if (user == nullptr || user->pw_dir == nullptr || user->pw_dir[0] != '/') {
    throw std::runtime_error("this user has no home folder: set HOME or XDG_CACHE_HOME");
  }
  return std::string(user->pw_dir) + "/.cache/muster";
}

}  // namespace muster
