#include "broker/nodes/plugin_files.hpp"

#include <fmt/format.h>

#include <chrono>
#include <filesystem>
#include <stdexcept>

#include "broker/hosts/digest.hpp"
#include "broker/ssh/remote_text.hpp"

namespace muster {
namespace {

constexpr std::size_t kMostName = 100;
constexpr std::chrono::seconds kPatience{60};
constexpr int kOtherContent = 3;

[[noreturn]] void fail(NodeError::Kind kind, const std::string& text) {
  throw NodeError(kind, "upload", text);
}

std::string digest_of(const std::string& path) { return short_digest(upload_digest(path)); }

// It came with other bytes than `muster up` saw: all nodes of a pool run the same functions.
[[noreturn]] void explain_other_content(const Plugin& plugin) {
  if (digest_of(plugin.path) == plugin.digest) {
    fail(NodeError::Kind::passing,
         fmt::format("the plug-in {} arrived damaged: is the disk full?", plugin.path));
  }
  fail(NodeError::Kind::lasting,
       fmt::format("the plug-in {} has changed since its host was brought up: bring the hosts up "
                   "again, so that all get the new one",
                   plugin.path));
}

void place(Remote& remote, const Plugin& plugin, const NodeFacts& facts, const Progress& progress) {
  const std::string target = facts.cache + "/plugins/" + place_of(plugin);
  const CommandOutput there =
      remote.run(shell_command("test -e " + shell_word(target)), "", kPatience);
  if (there.status == 0) return;
  const std::string name = std::filesystem::path(plugin.path).filename().string();
  const std::string part =
      upload_part(remote, facts, plugin.path, "plugins", "the plug-in " + name, progress);
  const CommandOutput moved =
      remote.run(shell_command(fmt::format(
                     "umask 077; a={}; p={}; trap 'rm -f \"$a\"' EXIT; "
                     "case $(sha256sum < \"$a\") in {}*) ;; *) exit {};; esac; "
                     "mkdir -p \"${{p%/*}}\" && mv \"$a\" \"$p\"",
                     shell_word(part), shell_word(target), plugin.digest, kOtherContent)),
                 "", kPatience);
  if (moved.status == kOtherContent) explain_other_content(plugin);
  if (moved.status != 0) {
    fail(NodeError::Kind::lasting,
         fmt::format("cannot place the plug-in {} on the node (is its disk full?): {}", plugin.path,
                     moved.error_output));
  }
}

}  // namespace

std::string place_of(const Plugin& plugin) {
  std::string name = std::filesystem::path(plugin.path).filename().string().substr(0, kMostName);
  for (char& byte : name) {
    const bool plain = (byte >= 'a' && byte <= 'z') || (byte >= 'A' && byte <= 'Z') ||
                       (byte >= '0' && byte <= '9') || byte == '.' || byte == '_' || byte == '-';
    if (!plain) byte = '_';
  }
  if (name.starts_with('.')) name.front() = '_';
  return plugin.digest + "/" + name;
}

void place_plugins(Remote& remote, const std::vector<Plugin>& plugins, const NodeFacts& facts,
                   const Progress& progress) {
  for (const Plugin& plugin : plugins) place(remote, plugin, facts, progress);
}

}  // namespace muster
