// `muster`: the person's command line.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>
#include <iterator>
#include <memory>
#include <muster/producer.hpp>
#include <string>
#include <vector>

#include "common/printable.hpp"
#include "producer/cli/keygen.hpp"
#include "producer/cli/nodes/keep_broker.hpp"
#include "producer/cli/nodes/node_commands.hpp"
#include "producer/cli/run/job_outcome.hpp"
#include "producer/cli/run/run.hpp"
#include "producer/cli/run/run_options.hpp"
#include "producer/cli/status.hpp"
#include "producer/client/discovery.hpp"

namespace {

// As GNU parallel's "other error": 1-101 count failed jobs, so nothing else may use them.
constexpr int kOtherError = 255;

constexpr const char* kDescription =
    "muster: a work queue over every machine you can reach\n"
    "\n"
    "  muster run COMMAND ::: INPUTS...   run a command for every input, in parallel\n"
    "  muster up HOST...                  make machines that you can ssh into nodes\n"
    "  muster down [NAME...]              end them\n"
    "  muster status                      workers, jobs and counters of a broker\n"
    "  muster doctor HOST...              what keeps a machine from being a node\n"
    "  muster clean HOST...               remove what Muster put on a machine\n"
    "  muster keygen                      make keys for connections over TCP\n"
    "  muster help [COMMAND]              this text, or all about a command";

constexpr const char* kExamples =
    "Examples:\n"
    "  muster run gzip -9 ::: *.log\n"
    "  find . -name '*.png' | muster run --bar optipng\n"
    "  muster up ada@node1 node2*8 && muster run hostname ::: 1 2 3";

constexpr const char* kStatusDescription =
    "Show the nodes, workers, slots and jobs of a broker.\n"
    "\n"
    "  muster status [--broker ENDPOINT] [--json]";

constexpr const char* kStatusExamples =
    "Columns: LEASES are tasks that a worker holds, running or next; STUCK are slots of tasks "
    "that\n"
    "ended but cannot be killed; QUEUED tasks wait for a slot, LEASED ones have a worker; MEAN is\n"
    "the duration of a task as the broker learned it.\n"
    "\n"
    "Examples:\n"
    "  muster status --broker ipc:///run/user/1000/muster/broker\n"
    "  MUSTER_BROKER=ipc:///tmp/pool/broker muster status\n"
    "  muster status --json | jq '.workers[].node'\n"
    "  watch muster status";

// Usage and commands stand in the descriptions, with more to them than CLI11 knows.
class HelpFormatter : public CLI::Formatter {
 public:
  std::string make_usage(const CLI::App*, std::string) const override { return ""; }
  std::string make_subcommands(const CLI::App*, CLI::AppFormatMode) const override { return ""; }
};

struct CommandLine {
  CLI::App app{kDescription, "muster"};
  CLI::App* run = nullptr;
  CLI::App* status = nullptr;
  CLI::App* keygen = nullptr;
  std::unique_ptr<muster::RunParser> run_parser;
  std::unique_ptr<muster::NodeCommands> node_commands;
  std::string status_broker;
  bool status_json = false;
  muster::KeygenOptions keygen_options;

  CommandLine() {
    app.formatter(std::make_shared<HelpFormatter>());
    app.get_formatter()->column_width(36);
    app.set_version_flag("--version", std::string("muster ") + MUSTER_VERSION);
    app.footer(kExamples);
    run = app.add_subcommand("run", "Run a command for every input, in parallel");
    run_parser = std::make_unique<muster::RunParser>(*run);
    node_commands = std::make_unique<muster::NodeCommands>(app);
    status = app.add_subcommand("status", kStatusDescription);
    status->footer(kStatusExamples);
    status
        ->add_option("--broker", status_broker,
                     "The broker to ask (default: MUSTER_BROKER, else the one in your runtime "
                     "folder)")
        ->type_name("ENDPOINT");
    status->add_flag("--json", status_json, "Print everything the broker says, as JSON");
    keygen = muster::add_keygen(app, keygen_options);
  }

  // The command that was asked for; nothing: none.
  const CLI::App* parsed() const {
    if (run->parsed()) return run;
    if (status->parsed()) return status;
    if (keygen->parsed()) return keygen;
    return node_commands->parsed();
  }
};

// `muster help run` is `muster run --help`.
int print_help(const CommandLine& line, const std::vector<std::string>& words) {
  const CLI::App* about = words.empty() ? &line.app : nullptr;
  for (const CLI::App* command : line.app.get_subcommands([](const CLI::App*) { return true; })) {
    if (!words.empty() && command->get_name() == words.front()) about = command;
  }
  if (about == nullptr) {
    fmt::print(stderr, "muster help: there is no command '{}'; try: muster help\n", words.front());
    return kOtherError;
  }
  fmt::print("{}", about->help());
  return 0;
}

int parse_error(CommandLine& line, const CLI::ParseError& error) {
  if (error.get_exit_code() == 0) return line.app.exit(error);  // --help, --version
  const CLI::App* parsed = line.parsed();
  const std::string command = parsed == nullptr ? "" : " " + parsed->get_name();
  fmt::print(stderr, "muster{}: {}\nTry: muster{} --help\n", command,
             muster::printable(error.what()), command);
  return kOtherError;
}

int dispatch(CommandLine& line, std::vector<std::string> words) {
  if (!words.empty() && words.front() == "help") {
    return print_help(line, {std::next(words.begin()), words.end()});
  }
  if (words.size() > 2 && words.front() == "keep-broker") {  // for `muster up` alone
    return muster::keep_broker(words[1], {std::next(words.begin(), 2), words.end()});
  }
  muster::RunWords run_words;
  const bool runs = !words.empty() && words.front() == "run";
  if (runs) {
    run_words = muster::split_run_words({std::next(words.begin()), words.end()});
    words = run_words.options;
    words.insert(words.begin(), "run");
  }
  muster::RunOptions options;
  std::string endpoint;
  try {
    std::vector<std::string> backwards(words.rbegin(), words.rend());  // as CLI11 wants them
    line.app.parse(std::move(backwards));
    if (runs) options = line.run_parser->options(run_words);
  } catch (const CLI::ParseError& error) {
    return parse_error(line, error);
  }
  if (line.parsed() == nullptr) return print_help(line, {});
  if (line.keygen->parsed()) return muster::make_keys(line.keygen_options);
  try {
    if (runs) {
      endpoint = options.broker;
      return muster::run_commands(options);
    }
    if (line.node_commands->parsed() != nullptr) return line.node_commands->run();
    endpoint = muster::endpoint_or_default(line.status_broker);
    return muster::print_status(endpoint, line.status_json);
  } catch (const muster::Error& error) {
    fmt::print(stderr, "muster: {}\n", muster::printable(muster::advice(error, endpoint)));
    return kOtherError;
  }
}

}  // namespace

int main(int argc, char** argv) {
  try {
    CommandLine line;
    return dispatch(line, {argv + 1, argv + argc});
  } catch (const std::exception& error) {
    fmt::print(stderr, "muster: {}\n", muster::printable(error.what()));
    return kOtherError;
  }
}
