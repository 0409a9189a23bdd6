#include "broker/nodes/attach_request.hpp"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <utility>

#include "broker/hosts/digest.hpp"
#include "broker/nodes/plugin_files.hpp"
#include "broker/ssh/remote_text.hpp"
#include "common/net/key_file.hpp"
#include "common/printable.hpp"
#include "common/system/attach_exit.hpp"

namespace muster {
namespace {

using Json = nlohmann::json;

constexpr std::size_t kSecretDigits = 48;
constexpr std::size_t kMostLogLine = 2000;

// A folder's name on the node: two entries of one machine have a worker each.
std::string run_folder(const std::string& pool, const std::string& node) {
  return sha256_of(pool + "\n" + node).substr(0, 24);
}

// A path that a person wrote, as a word for the node's shell: ~ is that user's home there.
std::string path_word(const std::string& path) {
  if (path.starts_with("~/")) return "\"$HOME\"" + shell_word(path.substr(1));
  return shell_word(path);
}

Json wishes(const Host& host, const Image& image) {
  Json environment = Json::object();
  for (const auto& [name, text] : host.environment) environment[name] = text;
  Json wanted = {{"version", MUSTER_VERSION},
                 {"node", host.name},
                 {"slots", host.slots},
                 {"executor", host.executor},
                 {"labels", host.labels},
                 {"environment", std::move(environment)},
                 {"directory", host.directory},
                 {"orphan_grace", host.orphan_grace.count()},
                 {"nice", host.nice},
                 {"max_cores", host.max_cores},
                 {"max_memory", host.max_memory_bytes},
                 {"pause_load", host.pause_load},
                 {"python_path", Json::array()},
                 {"includes", Json::array()},
                 {"plugins", Json::array()}};
  for (const Plugin& plugin : host.plugins) wanted["plugins"].push_back(place_of(plugin));
  if (!image.include.empty()) wanted["includes"].push_back(image.include);
  if (!image.environment.empty()) {
    wanted["python_environment"] = image.environment;
  } else if (!host.worker.empty() && host.python.empty()) {
    wanted["python"] = "auto";  // as that worker finds it
  } else if (!host.python.empty()) {
    const bool version = host.python.find_first_not_of("0123456789.") == std::string::npos;
    wanted["python"] = version ? "python" + host.python : host.python;
  }
  return wanted;
}

std::string line_of(const Json& config) {
  return config.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace

std::string attach_command(const Host& host, const Bundle& bundle) {
  if (!host.worker.empty()) {
    return shell_command("exec " + path_word(host.worker) + " attach");
  }
  // One round trip when the bundle is there; exit code 127 when it is not.
  return shell_command(
      fmt::format("w=${{XDG_CACHE_HOME:-$HOME/.cache}}/muster/bundles/{}/bin/muster-worker; "
                  "test -x \"$w\" || exit 127; exec \"$w\" attach",
                  bundle.digest));
}

AttachSecrets make_attach_secrets(const Host& host) {
  AttachSecrets secrets;
  secrets.password = random_hex(kSecretDigits);
  secrets.proof = random_hex(kSecretDigits);
  if (host.curve) {
    KeyPair pair = make_key_pair("node");
    secrets.public_key = std::move(pair.public_key);
    secrets.secret_key = std::move(pair.secret_key);
  }
  return secrets;
}

std::string attach_input(const Host& host, const Image& image, const NodePoolOptions& options,
                         std::uint16_t port, const AttachSecrets& secrets) {
  Json config = wishes(host, image);
  config["pool"] = run_folder(options.pool_name, host.name);
  config["endpoint"] = fmt::format("tcp://127.0.0.1:{}", port);
  config["user"] = host.name;
  config["password"] = secrets.password;
  config["proof"] = secrets.proof;
  if (host.curve) {
    config["curve"] = {{"server_key", options.curve_server_key},
                       {"public_key", secrets.public_key},
                       {"secret_key", secrets.secret_key}};
  }
  return line_of(config);
}

std::string end_input(const Host& host, const NodePoolOptions& options,
                      std::chrono::seconds drain) {
  return line_of({{"pool", run_folder(options.pool_name, host.name)},
                  {"end_only", true},
                  {"end_seconds", drain.count()}});
}

void explain_end(const AttachEnd& end) {
  using Kind = NodeError::Kind;
  const std::string words = end.last_words.empty() ? "it said nothing" : end.last_words;
  switch (end.status) {
    case kAttachEnded:
      throw NodeError(Kind::passing, "serve", "the ssh session of the worker ended");
    case kAttachUnusable:
      throw NodeError(Kind::lasting, "start", words);
    case kAttachLostWorker:
    case kAttachTaken:
      throw NodeError(Kind::passing, "serve", words);
    case kAttachNotRunnable:
      throw NodeError(Kind::lasting, "start",
                      "muster-worker cannot be executed on the node: " + words);
    case kAttachMissing:
      throw NodeError(Kind::lasting, "start",
                      "muster-worker was not found although it is there: " + words);
    default:
      throw NodeError(
          end.status > 128 ? Kind::passing : Kind::lasting, "start",
          fmt::format("muster-worker attach ended with status {}: {}", end.status, words));
  }
}

std::string for_log(std::string_view line) { return printable_line(line.substr(0, kMostLogLine)); }

}  // namespace muster
