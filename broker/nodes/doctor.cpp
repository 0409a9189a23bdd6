#include "broker/nodes/doctor.hpp"

#include <fmt/format.h>
#include <fmt/ostream.h>

#include <cstdlib>
#include <ctime>
#include <map>
#include <optional>
#include <ostream>
#include <sstream>

#include "broker/nodes/bundle.hpp"
#include "broker/ssh/echo_socket.hpp"
#include "broker/ssh/remote.hpp"
#include "broker/ssh/remote_text.hpp"
#include "common/printable.hpp"

namespace muster {
namespace {

constexpr std::chrono::seconds kPatience{60};
constexpr std::uint64_t kEnoughBytes = 200'000'000;  // a bundle, an environment of small packages
constexpr std::int64_t kClockSeconds = 5;
constexpr std::uint64_t kFewDescriptors = 1024;
constexpr std::string_view kToken = "muster-round-trip";

// What the node is, as lines of KEY=VALUE. Leaves nothing behind.
constexpr const char* kLook =
    "echo begin=1; c=${XDG_CACHE_HOME:-$HOME/.cache}/muster; echo \"cache=$c\"; "
    "echo \"time=$(date +%s)\"; echo \"arch=$(uname -m)\"; "
    "echo \"glibc=$( (getconf GNU_LIBC_VERSION || ldd --version) 2>/dev/null | head -n 1)\"; "
    "for t in tar gzip sha256sum find df uname mktemp; do "
    "command -v $t >/dev/null 2>&1 || echo \"missing=$t\"; done; "
    "d=$c; while test ! -d \"$d\"; do d=$(dirname \"$d\"); done; "
    "echo \"disk=$(df -Pk \"$d\" | tail -n 1)\"; "
    "if t=$(mktemp \"$d/.muster-XXXXXX\" 2>/dev/null); then "
    "echo \"#!/bin/sh\" > \"$t\"; chmod 700 \"$t\"; \"$t\" 2>/dev/null && echo runs=1; "
    "rm -f \"$t\"; echo writable=1; fi; echo \"folder=$d\"; "
    "echo \"files=$(ulimit -n)\"; "
    "for b in \"$c\"/bundles/*; do test -d \"$b\" && echo \"bundle=${b##*/}\"; done; "
    "for f in \"$c\"/run/*/pid; do test -r \"$f\" || continue; p=$(cat \"$f\"); "
    "case $(readlink /proc/$p/exe 2>/dev/null) in *muster-worker*) echo \"worker=$p\";; esac; "
    "done; "
    "if command -v loginctl >/dev/null 2>&1; then "
    "echo \"linger=$(loginctl show-user \"$(id -un)\" -p Linger 2>/dev/null)\"; "
    "echo \"kill=$(systemd-analyze cat-config systemd/logind.conf 2>/dev/null | "
    "grep -i \"^KillUserProcesses\" | tail -n 1)\"; fi";

// Says a word through the forwarded port with whatever the node has for it, and prints the answer.
// It begins when the tunnel is carried: its input comes then.
constexpr const char* kRoundTrip =
    "read -r go; p={0}; w={1}; if command -v bash >/dev/null 2>&1; then exec bash -c "
    "\"exec 3<>/dev/tcp/127.0.0.1/$p && echo $w >&3 && head -n 1 <&3\"; "
    "elif command -v python3 >/dev/null 2>&1; then exec python3 -c \"import socket; "
    "s = socket.create_connection((str(127) + \\\".0.0.1\\\", $p)); s.sendall(b\\\"$w\\\" + "
    "bytes([10])); print(s.makefile().readline())\"; else echo no-tool; fi";

constexpr const char* kPython =
    "for p in {0} python{0} python3; do command -v \"$p\" >/dev/null 2>&1 || continue; "
    "\"$p\" -c \"import sys, importlib.util as u; print(sys.executable, "
    "str(sys.version_info[0]) + chr(46) + str(sys.version_info[1]), *[m for m in "
    "(\\\"joblib\\\", \\\"cloudpickle\\\", \\\"venv\\\", \\\"ensurepip\\\") if not "
    "u.find_spec(m)])\"; exit; done; echo none";

constexpr const char* kLiving =
    "c=${XDG_CACHE_HOME:-$HOME/.cache}/muster; for f in \"$c\"/run/*/pid; do "
    "test -r \"$f\" || continue; p=$(cat \"$f\"); "
    "case $(readlink /proc/$p/exe 2>/dev/null) in *muster-worker*) echo $p;; esac; done";

constexpr const char* kRemove =
    "c=${XDG_CACHE_HOME:-$HOME/.cache}/muster; test -d \"$c\" || { echo nothing; exit 0; }; "
    "du -sk \"$c\" | cut -f 1; chmod -R u+w \"$c\"; rm -rf \"$c\"";

class Report {
 public:
  explicit Report(std::ostream& out) : out_(out) {}
  void ok(const std::string& step, const std::string& text = "") { line("ok", step, text); }
  void warning(const std::string& step, const std::string& text) { line("warning", step, text); }
  void problem(const std::string& step, const std::string& text) {
    problems_ = true;
    line("PROBLEM", step, text);
  }
  bool problems() const { return problems_; }

 private:
  void line(const char* kind, const std::string& step, const std::string& text) {
    fmt::print(out_, "  {:<8} {}\n", kind,
               printable(text.empty() ? step : fmt::format("{:<10} {}", step, text)));
    out_.flush();
  }
  std::ostream& out_;
  bool problems_ = false;
};

using Facts = std::multimap<std::string, std::string>;

std::string fact(const Facts& facts, const std::string& key) {
  const auto found = facts.find(key);
  return found == facts.end() ? "" : found->second;
}

// Steps that went well, then the one that did not.
bool check_login(Remote& remote, Report& report) {
  std::string step;
  try {
    remote.open([&](const std::string& next) {
      if (!step.empty() && step != next) report.ok(step);
      step = next;
    });
    if (!step.empty()) report.ok(step);
    return true;
  } catch (const NodeError& error) {
    report.problem(error.step(), error.what());
    return false;
  }
}

void check_forwarding(Remote& remote, const Host& host, Report& report) {
  try {
    const EchoSocket echo;
    const std::uint16_t port = remote.forward(host.standing ? 0 : host.reverse_port, echo.path());
    bool answered = false, tool = true;
    remote.serve(shell_command(fmt::format(kRoundTrip, port, kToken)), "go\n",
                 [&](std::string_view line, bool is_error) {
                   if (!is_error && line.starts_with(kToken)) answered = true;
                   if (!is_error && line == "no-tool") tool = false;
                 });
    if (answered) {
      report.ok("forward", fmt::format("a word went through port {} and back", port));
    } else if (!tool) {
      report.warning("forward", "allowed, but not tried: the node has neither bash nor python3");
    } else {
      report.problem(
          "forward",
          fmt::format("sshd listens on port {} of the node's loopback, but nothing comes "
                      "through: does a firewall there filter the loopback?",
                      port));
    }
  } catch (const NodeError& error) {
    report.problem(error.step() == "serve" ? "forward" : error.step(), error.what());
  }
}

Facts look(Remote& remote, Report& report) {
  const CommandOutput output = remote.run(shell_command(kLook), "", kPatience);
  Facts facts;
  std::istringstream lines(output.output);
  bool begun = false;
  for (std::string line; std::getline(lines, line);) {
    const std::size_t equals = line.find('=');
    if (equals == std::string::npos || (!begun && line != "begin=1")) {
      if (!begun) report.warning("shell", "its start-up files print text: " + line.substr(0, 80));
      continue;
    }
    begun = true;
    facts.emplace(line.substr(0, equals), line.substr(equals + 1));
  }
  if (!begun) {
    report.problem("shell",
                   "the login shell runs no commands (nologin, or a forced command in "
                   "authorized_keys?): " +
                       output.error_output.substr(0, 200));
  }
  return facts;
}

void check_disk(const Facts& facts, Report& report) {
  std::istringstream columns(fact(facts, "disk"));
  std::string name;
  std::uint64_t all = 0, used = 0, free = 0;
  columns >> name >> all >> used >> free;
  const std::string folder = fact(facts, "folder");
  const std::string text = fmt::format(
      "{:.1f} GB free for {}", static_cast<double>(free) * 1024 / 1e9, fact(facts, "cache"));
  if (fact(facts, "writable").empty()) {
    report.problem("disk", folder + " cannot be written: make it this user's, or free some space");
  } else if (fact(facts, "runs").empty()) {
    report.problem("disk", folder +
                               " runs no programs (mounted noexec): set XDG_CACHE_HOME for "
                               "this user to a folder on another disk");
  } else if (free * 1024 < kEnoughBytes) {
    report.warning("disk", text + ": Python environments may not fit");
  } else {
    report.ok("disk", text);
  }
}

void check_software(const Facts& facts, const std::optional<Bundle>& bundle, Report& report) {
  std::string missing;
  const auto [begin, end] = facts.equal_range("missing");
  for (auto it = begin; it != end; ++it) missing += (missing.empty() ? "" : ", ") + it->second;
  if (missing.empty()) {
    report.ok("tools");
  } else {
    report.problem("tools", "missing: " + missing + ": apt install tar gzip coreutils findutils");
  }
  if (!bundle) return;
  NodeFacts node;
  node.arch = fact(facts, "arch");
  const std::string glibc = fact(facts, "glibc");
  node.glibc = glibc.substr(glibc.find_last_of(' ') + 1);
  try {
    check_fits(*bundle, node);
    report.ok("system", fmt::format("{}, glibc {}", node.arch, node.glibc));
  } catch (const NodeError& error) {
    report.problem("system", error.what());
  }
  const auto bundles = facts.equal_range("bundle");
  bool present = false;
  for (auto it = bundles.first; it != bundles.second; ++it) {
    present = present || it->second == bundle->digest;
  }
  report.ok("bundle", present ? "this version is there"
                              : fmt::format("not there yet: the first start uploads {:.1f} MB",
                                            static_cast<double>(bundle->bytes) / 1e6));
}

void check_python(Remote& remote, const Host& host, const std::optional<Bundle>& bundle,
                  Report& report) {
  if (host.python == kNoPython) return;
  const std::string wanted = host.python.empty() && bundle ? bundle->python : host.python;
  const CommandOutput output =
      remote.run(shell_command(fmt::format(kPython, shell_word(wanted))), "", kPatience);
  std::istringstream words(output.output);
  std::string path, version, lacking;
  words >> path >> version;
  for (std::string word; words >> word;) lacking += (lacking.empty() ? "" : ", ") + word;
  const bool asked = !host.python.empty();
  if (path.empty() || path == "none") {
    const std::string text = "no Python: apt install python3, if tasks need it";
    asked ? report.problem("python", text) : report.ok("python", text);
    return;
  }
  std::string text = fmt::format("{} is {}", path, version);
  if (bundle && !bundle->python.empty() && version != bundle->python) {
    text += fmt::format(", this Muster runs {}: install python{} or give its path", bundle->python,
                        bundle->python);
    asked ? report.problem("python", text) : report.warning("python", text);
    return;
  }
  const bool lacks_packages = lacking.find("joblib") != std::string::npos ||
                              lacking.find("cloudpickle") != std::string::npos;
  const bool lacks_venv =
      lacking.find("venv") != std::string::npos || lacking.find("ensurepip") != std::string::npos;
  if (host.pip.empty() && lacks_packages) {
    text += "; without " + lacking + ": add pip = [\"joblib\", \"cloudpickle\"] to the host";
    asked ? report.problem("python", text) : report.warning("python", text);
  } else if (!host.pip.empty() && lacks_venv) {
    report.problem("python", text + "; without " + lacking + ": apt install python3-venv");
  } else {
    report.ok("python", text);
  }
}

void check_manners(const Facts& facts, Report& report) {
  const std::int64_t there = std::atoll(fact(facts, "time").c_str());
  const std::int64_t difference = there - static_cast<std::int64_t>(std::time(nullptr));
  if (std::abs(difference) > kClockSeconds) {
    report.warning("clock", fmt::format("{} s {} of this machine's: run an NTP client on both",
                                        std::abs(difference), difference > 0 ? "ahead" : "behind"));
  } else {
    report.ok("clock");
  }
  const std::string files = fact(facts, "files");
  if (files != "unlimited" && std::strtoull(files.c_str(), nullptr, 10) < kFewDescriptors) {
    report.warning("limits", "only " + files +
                                 " open files (ulimit -n): raise it in "
                                 "/etc/security/limits.conf");
  } else {
    report.ok("limits");
  }
  const bool kills = fact(facts, "kill").find("yes") != std::string::npos;
  if (kills && fact(facts, "linger").find("yes") == std::string::npos) {
    report.warning("session",
                   "logind ends the user's programs when a session ends, so a broken "
                   "connection ends the worker: loginctl enable-linger USER");
  }
  const auto workers = facts.equal_range("worker");
  for (auto it = workers.first; it != workers.second; ++it) {
    report.ok("workers", "one runs there: process " + it->second);
  }
}

bool examine(const Host& host, const std::optional<Bundle>& bundle, std::ostream& out) {
  fmt::print(out, "{} ({}{}{})\n", host.name, host.user, host.user.empty() ? "" : "@",
             host.address);
  Report report(out);
  TunnelCounters counters;
  const auto remote = make_remote(host, counters);
  try {
    if (!check_login(*remote, report)) return false;
    check_forwarding(*remote, host, report);
    const Facts facts = look(*remote, report);
    if (facts.empty()) return false;
    check_software(facts, bundle, report);
    check_disk(facts, report);
    check_python(*remote, host, bundle, report);
    check_manners(facts, report);
  } catch (const NodeError& error) {
    report.problem(error.step(), error.what());
  }
  return !report.problems();
}

bool clean(const Host& host, bool force, std::ostream& out) {
  TunnelCounters counters;
  const auto remote = make_remote(host, counters);
  remote->open([](const std::string&) {});
  const auto living = [&] {
    std::string text = remote->run(shell_command(kLiving), "", kPatience).output;
    for (char& byte : text) byte = byte == '\n' ? ' ' : byte;
    return text;
  };
  const std::string workers = living();
  if (!workers.empty() && !force) {
    fmt::print(out, "{}: a worker runs there (process {}): `muster down` first, or --force\n",
               host.name, workers.substr(0, workers.size() - 1));
    return false;
  }
  if (!workers.empty()) {
    // Processes that the worker started end with it.
    remote->run(shell_command(fmt::format(
                    "kill {0}; for i in 1 2 3 4 5 6 7 8 9 10 11 12; do kill -0 {0} 2>/dev/null || "
                    "exit 0; sleep 1; done; kill -9 {0}",
                    workers)),
                "", kPatience);
    fmt::print(out, "{}: ended process {}\n", host.name, workers);
  }
  const CommandOutput removed = remote->run(shell_command(kRemove), "", kPatience * 5);
  if (removed.status != 0) {
    fmt::print(out, "{}: cannot remove everything: {}\n", host.name,
               printable(removed.error_output));
    return false;
  }
  if (removed.output.starts_with("nothing")) {
    fmt::print(out, "{}: nothing of Muster's was there\n", host.name);
  } else {
    fmt::print(out, "{}: removed {:.1f} MB\n", host.name,
               static_cast<double>(std::atoll(removed.output.c_str())) * 1024 / 1e6);
  }
  return true;
}

}  // namespace

int run_doctor(const std::vector<Host>& hosts, const std::string& bundle_path, std::ostream& out) {
  std::optional<Bundle> bundle;
  bool well = true;
  try {
    bundle = find_bundle(bundle_path);
  } catch (const NodeError& error) {
    well = false;
    fmt::print(out, "this machine\n");
    Report(out).problem("bundle", error.what());
  }
  for (const Host& host : hosts) well = examine(host, bundle, out) && well;
  return well ? 0 : 1;
}

int run_clean(const std::vector<Host>& hosts, bool force, std::ostream& out) {
  bool well = true;
  for (const Host& host : hosts) {
    try {
      well = clean(host, force, out) && well;
    } catch (const NodeError& error) {
      fmt::print(out, "{}: {}: {}\n", host.name, error.step(), printable(error.what()));
      well = false;
    }
  }
  return well ? 0 : 1;
}

}  // namespace muster
