#include "producer/cli/keygen.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <array>
#include <stdexcept>

#include "common/net/key_file.hpp"

namespace muster {
namespace {

constexpr const char* kDescription =
    "Make the key file of a broker or a worker, for connections over TCP.\n"
    "\n"
    "  muster keygen [--name NAME] [--output FILE]\n"
    "  muster keygen --secret FILE\n"
    "\n"
    "Every side has a key file of its own, and it never leaves its machine; FILE.pub is for the\n"
    "other side. A secret is for networks that you trust: both sides have the same file, and\n"
    "nothing is encrypted.";

constexpr const char* kExamples =
    "Examples:\n"
    "  muster keygen --name broker            on the broker's machine\n"
    "  muster keygen --name node1             on the worker's machine\n"
    "  cat node1.key.pub >> authorized_workers\n"
    "  muster-broker --listen ipc:///run/user/1000/muster/broker --listen tcp://0.0.0.0:5670 \\\n"
    "      --key broker.key --authorized-workers authorized_workers\n"
    "  muster-worker --connect tcp://broker.example.org:5670 --key node1.key \\\n"
    "      --broker-key broker.key.pub";

std::string machine_name() {
  std::array<char, 256> name{};
  return gethostname(name.data(), name.size() - 1) == 0 ? name.data() : "";
}

}  // namespace

CLI::App* add_keygen(CLI::App& app, KeygenOptions& options) {
  CLI::App* command = app.add_subcommand("keygen", kDescription);
  command->footer(kExamples);
  command->add_option("--name", options.name, "Whose key it is (default: this machine's name)")
      ->type_name("NAME");
  command
      ->add_option("--output", options.output,
                   "The file with the secret key (default: NAME.key); the public one goes to "
                   "FILE.pub")
      ->type_name("FILE");
  command
      ->add_option("--secret", options.secret,
                   "Instead of keys, a file for `muster-broker --trust-network` and `muster-worker "
                   "--secret`")
      ->type_name("FILE")
      ->excludes("--output");
  command->add_flag("--force", options.force, "Replace these files if they exist");
  return command;
}

namespace {

int make_secret(const KeygenOptions& options) {
  write_secret_file(options.secret, make_shared_secret(options.name), options.force);
  fmt::print(
      "{0}  the secret: copy it, with mode 0600, to every machine of the trusted network.\n"
      "broker:  muster-broker --listen ipc:///path/to/socket --listen tcp://ADDRESS:5670 "
      "--trust-network {0}\n"
      "worker:  muster-worker --connect tcp://ADDRESS:5670 --secret {0}\n",
      options.secret);
  return 0;
}

}  // namespace

int make_keys(KeygenOptions options) {
  if (options.name.empty()) options.name = machine_name();
  if (!is_key_name(options.name)) {
    throw std::invalid_argument(fmt::format(
        "the name '{}' does not fit: use letters, digits and ._-@ (--name)", options.name));
  }
  if (!options.secret.empty()) return make_secret(options);
  if (options.output.empty()) options.output = options.name + ".key";
  const KeyPair pair = make_key_pair(options.name);
  write_key_files(options.output, pair, options.force);
  fmt::print(
      "{0}      the secret key: it stays on this machine\n"
      "{0}.pub  the public key. A worker's goes into the broker's --authorized-workers file, as "
      "this line:\n"
      "{1}\n",
      options.output, public_line(pair));
  return 0;
}

}  // namespace muster
