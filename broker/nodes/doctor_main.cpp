// The command line of `muster-broker doctor` and `muster-broker clean`.
#include <CLI/CLI.hpp>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <stdexcept>

#include "broker/hosts/hosts_file.hpp"
#include "broker/nodes/doctor.hpp"

namespace muster {
namespace {

// Files and hosts of the short form.
std::vector<Host> read_words(const std::vector<std::string>& words) {
  std::vector<Host> all;
  for (const std::string& word : words) {
    if (!word.ends_with(".toml") && !std::filesystem::is_regular_file(word)) {
      all.push_back(parse_short_host(word));
      continue;
    }
    std::ifstream file(word);
    if (!file) throw std::invalid_argument("cannot read " + word);
    const std::string text((std::istreambuf_iterator<char>(file)),
                           std::istreambuf_iterator<char>());
    const auto folder = std::filesystem::absolute(word).parent_path().string();
    for (Host& host : parse_hosts(text, word, folder)) all.push_back(std::move(host));
  }
  return all;
}

}  // namespace

int run_node_tool(int argument_count, char** arguments) {
  CLI::App app("Looks at machines, or cleans them; `muster doctor` and `muster clean` run it.");
  app.require_subcommand(1);
  std::vector<std::string> words;
  std::string bundle;
  bool force = false;
  CLI::App* doctor = app.add_subcommand("doctor", "Checks whether machines can be nodes");
  CLI::App* clean = app.add_subcommand("clean", "Removes everything of Muster's from machines");
  for (CLI::App* command : {doctor, clean}) {
    command->add_option("HOST", words, "Hosts files, and [user@]host[:port]")->required();
  }
  doctor->add_option("--bundle", bundle, "The worker bundle")->type_name("FILE");
  clean->add_flag("--force", force, "Even while workers run there: ends them");
  try {
    app.parse(argument_count, arguments);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  try {
    const std::vector<Host> hosts = read_words(words);
    return doctor->parsed() ? run_doctor(hosts, bundle, std::cout)
                            : run_clean(hosts, force, std::cout);
  } catch (const std::exception& error) {
    std::cerr << "muster-broker: " << error.what() << "\n";
    return 2;
  }
}

}  // namespace muster
