#include "broker/nodes/bundle.hpp"

#include <fmt/format.h>

#include <array>
#include <charconv>
#include <chrono>
#include <fstream>
#include <iterator>
#include <memory>
#include <random>
#include <sstream>

#include "broker/hosts/digest.hpp"
#include "broker/ssh/remote_text.hpp"

namespace muster {
namespace {

constexpr std::chrono::seconds kShortPatience{60};
constexpr std::chrono::seconds kUnpackPatience{300};
constexpr std::uint64_t kUnpackedFactor = 5;  // the archive itself and what comes out of it

// The folders of ours, what an unfinished upload of yesterday left, and what the node is.
constexpr const char* kProbe =
    "umask 077; c=${XDG_CACHE_HOME:-$HOME/.cache}/muster; "
    "for t in tar gzip sha256sum find df uname; do "
    "command -v $t >/dev/null 2>&1 || echo \"missing=$t\"; done; "
    "for d in bundles run environments includes wheels plugins; do "
    "mkdir -p \"$c/$d\" || exit 1; done; "
    "find \"$c\" -maxdepth 2 -name \".part-*\" -mtime +0 -exec rm -rf {} + 2>/dev/null; "
    "echo \"cache=$c\"; echo \"arch=$(uname -m)\"; "
    "echo \"glibc=$( (getconf GNU_LIBC_VERSION || ldd --version) 2>/dev/null | head -n 1)\"; "
    "echo \"disk=$(df -Pk \"$c\" | tail -n 1)\"";

std::string last_word(const std::string& text) { return text.substr(text.find_last_of(' ') + 1); }

std::string trimmed(std::string text) {
  text.erase(text.find_last_not_of(" \r\n") + 1);
  return text;
}

bool tells_full_disk(const std::string& text) {
  return text.find("No space left") != std::string::npos ||
         text.find("quota") != std::string::npos || text.find("ENOSPC") != std::string::npos;
}

[[noreturn]] void throw_full(const std::string& what, std::uint64_t needed,
                             const NodeFacts& facts) {
  throw NodeError(NodeError::Kind::lasting, "upload",
                  fmt::format("no room on the node's disk for {}: {} needs {:.1f} MB, {:.1f} MB "
                              "are free; free some there, or give the user another XDG_CACHE_HOME",
                              what, facts.cache, static_cast<double>(needed) / 1e6,
                              static_cast<double>(facts.free_bytes) / 1e6));
}

std::filesystem::path beside_program() {
  std::error_code error;
  const auto program = std::filesystem::read_symlink("/proc/self/exe", error);
  return program.parent_path().parent_path() / "share" / "muster" / "worker-bundle.tar.gz";
}

void read_manifest(std::istream& lines, Bundle& bundle) {
  for (std::string key, value; lines >> key >> value;) {
    if (key == "version") bundle.version = value;
    if (key == "arch") bundle.arch = value;
    if (key == "glibc") bundle.glibc = value;
    if (key == "python") bundle.python = value;
  }
}

}  // namespace

std::string upload_digest(const std::filesystem::path& file) {
  try {
    return sha256_of_file(file);
  } catch (const std::invalid_argument& error) {
    throw NodeError(NodeError::Kind::lasting, "upload", error.what());
  }
}

std::string of_megabytes(std::uint64_t done, std::uint64_t all) {
  return fmt::format("{:.1f} of {:.1f} MB", static_cast<double>(done) / 1e6,
                     static_cast<double>(all) / 1e6);
}

std::string random_hex(std::size_t digits) {
  std::random_device device;
  std::string text;
  while (text.size() < digits) text += fmt::format("{:08x}", device());
  text.resize(digits);
  return text;
}

bool older_version(std::string_view a, std::string_view b) {
  while (!a.empty() || !b.empty()) {
    int left = 0, right = 0;
    const auto next = [](std::string_view& text, int& number) {
      const auto end = std::from_chars(text.data(), text.data() + text.size(), number);
      text.remove_prefix(static_cast<std::size_t>(end.ptr - text.data()));
      if (!text.empty()) text.remove_prefix(1);
    };
    next(a, left);
    next(b, right);
    if (left != right) return left < right;
  }
  return false;
}

std::string shell_command(std::string_view script) {
  return "exec /bin/sh -c " + shell_word(script);
}

Bundle find_bundle(const std::string& path) {
  Bundle bundle;
  bundle.file = path.empty() ? beside_program() : std::filesystem::path(path);
  std::error_code error;
  bundle.bytes = std::filesystem::file_size(bundle.file, error);
  if (error) {
    throw NodeError(
        NodeError::Kind::lasting, "upload",
        fmt::format("there is no worker bundle at {}: build the target worker-bundle, or say "
                    "`worker` for hosts where muster-worker is installed",
                    bundle.file.string()));
  }
  std::ifstream described(bundle.file.string() + ".sha256");
  if (!(described >> bundle.sha256) || bundle.sha256.size() != 64) {
    throw NodeError(NodeError::Kind::lasting, "upload",
                    bundle.file.string() + ".sha256 is missing: build the bundle again");
  }
  read_manifest(described, bundle);
  bundle.digest = short_digest(bundle.sha256);
  return bundle;
}

NodeFacts probe_node(Remote& remote) {
  const CommandOutput probe = remote.run(shell_command(kProbe), "", kShortPatience);
  if (probe.status != 0) {
    throw NodeError(
        NodeError::Kind::lasting, "probe",
        fmt::format(
            "cannot prepare ~/.cache/muster on the node: {}; is that disk full, or the home "
            "folder not this user's? `muster doctor` looks closer",
            trimmed(probe.error_output)));
  }
  NodeFacts facts;
  std::istringstream lines(probe.output);
  std::string missing;
  for (std::string line; std::getline(lines, line);) {
    const std::size_t equals = line.find('=');
    if (equals == std::string::npos) continue;
    const std::string key = line.substr(0, equals), value = trimmed(line.substr(equals + 1));
    if (key == "missing") missing += (missing.empty() ? "" : ", ") + value;
    if (key == "cache") facts.cache = value;
    if (key == "arch") facts.arch = value;
    if (key == "glibc") facts.glibc = last_word(value);
    if (key == "disk") {
      std::istringstream columns(value);
      std::string name;
      std::uint64_t all = 0, used = 0, free = 0;
      if (columns >> name >> all >> used >> free) facts.free_bytes = free * 1024;
    }
  }
  if (!missing.empty()) {
    throw NodeError(NodeError::Kind::lasting, "probe",
                    "the node has no " + missing +
                        ": install it there (apt install tar gzip coreutils findutils)");
  }
  if (facts.cache.empty()) {
    throw NodeError(NodeError::Kind::lasting, "probe",
                    "the node's shell did not run our commands: is it a login shell that prints a "
                    "menu, or /usr/sbin/nologin?");
  }
  return facts;
}

void check_fits(const Bundle& bundle, const NodeFacts& facts) {
  if (facts.arch != bundle.arch) {
    throw NodeError(NodeError::Kind::lasting, "probe",
                    fmt::format("the node is {}, the worker bundle is for {}: install Muster on "
                                "the node and say `worker = \"/usr/bin/muster-worker\"`",
                                facts.arch, bundle.arch));
  }
  if (facts.glibc.empty() || older_version(facts.glibc, bundle.glibc)) {
    throw NodeError(
        NodeError::Kind::lasting, "probe",
        fmt::format("the node has {}, the worker bundle needs glibc {} or newer: build Muster on a "
                    "machine as old as the node, or install it there and say `worker`",
                    facts.glibc.empty() ? "no glibc" : "glibc " + facts.glibc, bundle.glibc));
  }
}

std::string upload_part(Remote& remote, const NodeFacts& facts, const std::filesystem::path& file,
                        const std::string& folder, const std::string& what,
                        const Progress& progress) {
  std::error_code ignored;
  const std::uint64_t bytes = std::filesystem::file_size(file, ignored);
  if (facts.free_bytes < bytes * kUnpackedFactor) {
    throw_full(what, bytes * kUnpackedFactor, facts);
  }
  std::string part = fmt::format("{}/{}/.part-{}", facts.cache, folder, random_hex(16));
  const auto tell = [&](std::uint64_t done) {
    progress("upload", fmt::format("uploading {}: {}", what, of_megabytes(done, bytes)));
  };
  tell(0);
  remote.upload(file, part, tell);
  return part;
}

void place_bundle(Remote& remote, const Bundle& bundle, const NodeFacts& facts,
                  const Progress& progress) {
  const std::string place = facts.cache + "/bundles/" + bundle.digest;
  const std::string program = shell_word(place + "/bin/muster-worker");
  if (remote.run(shell_command("test -x " + program), "", kShortPatience).status == 0) return;
  const std::string part =
      upload_part(remote, facts, bundle.file, "bundles", "the worker bundle", progress);
  progress("upload", "unpacking the worker bundle");
  const std::string archive = shell_word(part), folder = shell_word(part + ".d");
  const CommandOutput unpacked =
      remote.run(shell_command(fmt::format(
                     "umask 077; a={}; d={}; trap 'rm -rf \"$a\" \"$d\"' EXIT; "
                     "echo \"{}  $a\" | sha256sum -c - >/dev/null || exit 3; "
                     "mkdir \"$d\" && tar xzf \"$a\" -C \"$d\" || exit 4; "
                     "mv -T \"$d\" {} 2>/dev/null || test -x {} || exit 4; {} --version",
                     archive, folder, bundle.sha256, shell_word(place), program, program)),
                 "", kUnpackPatience);
  if (unpacked.status == 0) return;
  const std::string text = trimmed(unpacked.error_output);
  if (tells_full_disk(text)) throw_full("the worker bundle", bundle.bytes * kUnpackedFactor, facts);
  if (unpacked.status == 3) {
    throw NodeError(NodeError::Kind::passing, "upload",
                    "the worker bundle arrived damaged (its SHA-256 differs): is the disk full?");
  }
  if (unpacked.status == 126) {
    throw NodeError(NodeError::Kind::lasting, "upload",
                    fmt::format("{} is on a disk that runs no programs (mounted noexec?): give the "
                                "user another XDG_CACHE_HOME, or say `worker`",
                                facts.cache));
  }
  throw NodeError(
      NodeError::Kind::lasting, "upload",
      fmt::format("the worker bundle does not work on the node: {}; install Muster there and "
                  "say `worker`",
                  text));
}

}  // namespace muster
