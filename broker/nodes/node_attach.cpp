// Node: the held command on the node, what it is told and what it says.
#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <nlohmann/json.hpp>

#include "broker/hosts/digest.hpp"
#include "broker/nodes/node.hpp"
#include "broker/nodes/plugin_files.hpp"
#include "broker/ssh/remote_text.hpp"
#include "common/net/key_file.hpp"
#include "common/printable.hpp"
#include "common/system/attach_exit.hpp"

namespace muster {
namespace {

using Json = nlohmann::json;

constexpr std::size_t kSecretDigits = 48;
constexpr std::chrono::seconds kGoodbyeMargin{15};
constexpr std::size_t kMostLogLine = 2000;

// A folder's name on the node: two entries of one machine have a worker each.
std::string run_folder(const std::string& pool, const std::string& node) {
  return sha256_of(pool + "\n" + node).substr(0, 24);
}

// What another machine says, fit for our log.
std::string for_log(std::string_view line) { return printable_line(line.substr(0, kMostLogLine)); }

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

}  // namespace

std::string Node::attach_command() const {
  if (!current_.worker.empty()) {
    return shell_command("exec " + path_word(current_.worker) + " attach");
  }
  // One round trip when the bundle is there; exit code 127 when it is not.
  return shell_command(
      fmt::format("w=${{XDG_CACHE_HOME:-$HOME/.cache}}/muster/bundles/{}/bin/muster-worker; "
                  "test -x \"$w\" || exit 127; exec \"$w\" attach",
                  bundle_->digest));
}

// The secrets of this attach; those of the one before are void.
std::string Node::attach_input(std::uint16_t port) {
  const std::string password = random_hex(kSecretDigits), proof = random_hex(kSecretDigits);
  Json config = wishes(current_, image_);
  config["pool"] = run_folder(options_.pool_name, current_.name);
  config["endpoint"] = fmt::format("tcp://127.0.0.1:{}", port);
  config["user"] = current_.name;
  config["password"] = password;
  config["proof"] = proof;
  std::string public_key;
  if (current_.curve) {
    const KeyPair pair = make_key_pair("node");
    public_key = pair.public_key;
    config["curve"] = {{"server_key", options_.curve_server_key},
                       {"public_key", pair.public_key},
                       {"secret_key", pair.secret_key}};
  }
  authenticator_.allow(current_.name, password, proof, public_key);
  return config.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
}

Node::AttachEnd Node::attach(Remote& remote, std::uint16_t port) {
  set_state(State::connecting, "start", "");
  AttachEnd end;
  may_run_ = true;
  end.status =
      remote.serve(attach_command(), attach_input(port),
                   [&](std::string_view line, bool is_error) { heard(line, is_error, end); });
  const std::lock_guard lock(mutex_);
  held_up_ = false;
  return end;
}

void Node::heard(std::string_view line, bool is_error, AttachEnd& end) {
  if (is_error) {
    if (line.empty()) return;
    end.last_words = for_log(line);
    if (end.last_words.starts_with("muster: ")) end.last_words.erase(0, 8);
    spdlog::info("node {}: {}", current_.name, end.last_words);
    return;
  }
  if (line.starts_with("lacks ")) {
    end.lack = for_log(line.substr(6));
    spdlog::info("node {}: commands and native functions only: {}", current_.name, end.lack);
  }
  if (line.starts_with("missing ")) spdlog::info("node {}: {}", current_.name, for_log(line));
  if (!line.starts_with("ready ")) return;
  backoff_.up(now());
  set_state(State::up, "serve",
            end.lack.empty() ? "" : "commands and native functions only: " + end.lack);
  const std::lock_guard lock(mutex_);
  held_up_ = true;
  ++ups_;
}

void Node::prepare(Remote& remote) {
  set_state(State::preparing, "probe", "");
  const bool ships =
      !image_.environment.empty() || !image_.include.empty() || !current_.plugins.empty();
  if (!current_.worker.empty() && !ships) {
    throw NodeError(NodeError::Kind::lasting, "start",
                    fmt::format("there is no program {} on the node: install Muster there, or "
                                "leave out `worker`",
                                current_.worker));
  }
  const NodeFacts facts = probe_node(remote);
  if (current_.worker.empty()) {
    check_fits(*bundle_, facts);
    place_bundle(remote, *bundle_, facts, progress());
  }
  place_includes(remote, current_, image_, facts, progress());
  place_plugins(remote, current_.plugins, facts, progress());
  if (bundle_) prepare_environment(remote, current_, *bundle_, image_, facts, progress());
}

void Node::explain_end(const AttachEnd& end) const {
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

// The connection was not there to end the worker: once more, for that alone.
void Node::say_goodbye() {
  std::chrono::seconds drain{0};
  {
    const std::lock_guard lock(mutex_);
    if (cut_) return;
    drain = drain_;
  }
  try {
    hold(make_remote(current_, counters_));
    remote_->open([](const std::string&) {});
    const Json config = {{"pool", run_folder(options_.pool_name, current_.name)},
                         {"end_only", true},
                         {"end_seconds", drain.count()}};
    remote_->run(attach_command(), config.dump() + "\n", drain + kGoodbyeMargin);
  } catch (const std::exception& error) {
    spdlog::warn(
        "node {}: cannot end its worker ({}); it ends by itself {} s after it lost the tunnel",
        current_.name, printable_line(error.what()), current_.orphan_grace.count());
  }
  release();
}

}  // namespace muster
