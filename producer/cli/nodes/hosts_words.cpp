#include "producer/cli/nodes/hosts_words.hpp"

#include <fmt/format.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <optional>
#include <stdexcept>

namespace muster {
namespace {

namespace fs = std::filesystem;

constexpr const char* kCommandLine = "the command line";

bool is_file(const std::string& word) {
  return word.ends_with(".toml") || word.find('/') != std::string::npos;
}

HostsText read_file(const std::string& word) {
  std::error_code error;
  if (fs::is_directory(word, error)) {
    throw std::runtime_error(word + " is a folder; name the hosts file in it");
  }
  errno = 0;
  std::ifstream file(word, std::ios::binary);
  HostsText hosts{{std::istreambuf_iterator<char>(file), {}},
                  fs::absolute(word).lexically_normal().string()};
  if (!file.is_open() || file.bad()) {
    throw std::runtime_error(
        fmt::format("cannot read the hosts file {}: {}", word, std::strerror(errno)));
  }
  return hosts;
}

// JSON's strings are TOML's, too.
std::string in_quotes(const std::string& text) {
  return nlohmann::json(text).dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
}

}  // namespace

std::vector<HostsText> hosts_of(const std::vector<std::string>& words,
                                const HostDefaults& defaults) {
  std::vector<HostsText> result;
  std::optional<std::size_t> shorts;
  std::string list;
  for (const std::string& word : words) {
    if (is_file(word)) {
      result.push_back(read_file(word));
      continue;
    }
    if (!shorts) {
      shorts = result.size();
      result.push_back({"", kCommandLine});
    }
    list += (list.empty() ? "" : ", ") + in_quotes(word);
  }
  if (!shorts && (defaults.slots != 0 || !defaults.python.empty())) {
    throw std::runtime_error(
        "--slots and --python are for hosts named one by one; a hosts file says them itself");
  }
  if (!shorts) return result;
  std::string& text = result[*shorts].text;
  text = fmt::format("hosts = [{}]\n[defaults]\n", list);
  if (defaults.slots != 0) text += fmt::format("slots = {}\n", defaults.slots);
  if (!defaults.python.empty()) text += "python = " + in_quotes(defaults.python) + "\n";
  return result;
}

}  // namespace muster
