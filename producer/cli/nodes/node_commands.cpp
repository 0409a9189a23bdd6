#include "producer/cli/nodes/node_commands.hpp"

#include <CLI/CLI.hpp>

#include "producer/cli/nodes/node_tools.hpp"

namespace muster {
namespace {

constexpr const char* kUpDescription =
    "Make machines that you can ssh into nodes of a broker, which stays when this command ends.\n"
    "\n"
    "  muster up [OPTIONS] FILE.toml | HOST...\n"
    "\n"
    "A HOST is [user@]host[:port][*slots]; a hosts file says more of each (docs/hosts.md).\n"
    "Everything that is installed there stands in ~/.cache/muster. Nodes that are up stay as they\n"
    "are; one whose entry has changed is started again.";

constexpr const char* kUpExamples =
    "Examples:\n"
    "  muster up ada@node1 node2*8          two machines; the second gets 8 slots\n"
    "  muster up hosts.toml\n"
    "  muster run -- hostname ::: 1 2 3     runs on them, as do programs that name no broker\n"
    "  muster down\n"
    "\n"
    "Exit status: 0 all nodes are up; 1 some are not, and standard error has step and remedy of\n"
    "each; 130 Ctrl-C (the broker goes on); 255 nothing was done, such as for a typo in the file.";

constexpr const char* kDownDescription =
    "End workers on nodes, and wait until they are gone.\n"
    "\n"
    "  muster down [OPTIONS] [NAME...]\n"
    "\n"
    "Without names: all nodes, and then the broker. Tasks without outcome go back to their queue,\n"
    "or end with the broker.";

constexpr const char* kDoctorDescription =
    "Check, step by step, whether machines can be nodes, and say how to repair what is wrong.\n"
    "\n"
    "  muster doctor FILE.toml | HOST...";

constexpr const char* kCleanDescription =
    "Remove what Muster put on machines: their folder ~/.cache/muster.\n"
    "\n"
    "  muster clean [--force] FILE.toml | HOST...";

constexpr const char* kHosts = "Hosts files, and hosts as [user@]host[:port][*slots]";

}  // namespace

NodeCommands::NodeCommands(CLI::App& app) {
  up_ = app.add_subcommand("up", kUpDescription);
  up_->footer(kUpExamples);
  up_->add_option("HOST", up_options_.words, kHosts)->required();
  up_->add_option("--slots", up_options_.defaults.slots, "Slots of each HOST that does not say *N")
      ->type_name("N")
      ->check(CLI::Range(1U, 65536U));
  up_->add_option("--python", up_options_.defaults.python,
                  "Python of each HOST: a version like 3.11, the interpreter's path there, or none "
                  "(default: this Muster's version, if the host has it)")
      ->type_name("PYTHON");
  up_->add_option("--wait", patience_seconds_,
                  "Seconds for nodes that do not answer; the broker goes on trying")
      ->type_name("SECONDS")
      ->check(CLI::Range(0.0, 1e6))
      ->capture_default_str();
  up_->add_option("--broker", up_options_.broker,
                  "Use, or start, the broker there (default: MUSTER_BROKER, else the one in your "
                  "runtime folder)")
      ->type_name("ENDPOINT");

  down_ = app.add_subcommand("down", kDownDescription);
  down_->add_option("NAME", down_options_.names, "Names of nodes, as `muster status` shows them");
  down_
      ->add_option("--broker", down_options_.broker,
                   "The broker (default: MUSTER_BROKER, else the one in your runtime folder)")
      ->type_name("ENDPOINT");
  down_->add_flag("--now", now_, "Do not wait until they are gone");

  doctor_ = app.add_subcommand("doctor", kDoctorDescription);
  doctor_->add_option("HOST", tool_words_, kHosts)->required();
  clean_ = app.add_subcommand("clean", kCleanDescription);
  clean_->add_option("HOST", tool_words_, kHosts)->required();
  clean_->add_flag("--force", force_, "Even while workers run there: ends them");
}

const CLI::App* NodeCommands::parsed() const {
  for (const CLI::App* command : {up_, down_, doctor_, clean_}) {
    if (command->parsed()) return command;
  }
  return nullptr;
}

int NodeCommands::run() {
  if (up_->parsed()) {
    up_options_.patience =
        std::chrono::milliseconds(static_cast<std::int64_t>(patience_seconds_ * 1000));
    return bring_up(up_options_);
  }
  if (down_->parsed()) {
    down_options_.wait = !now_;
    return take_down(down_options_);
  }
  if (doctor_->parsed()) run_node_tool("doctor", tool_words_);
  if (force_) tool_words_.insert(tool_words_.begin(), "--force");
  run_node_tool("clean", tool_words_);
}

}  // namespace muster
