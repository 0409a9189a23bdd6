#include "broker/hosts/wanted_nodes.hpp"

#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <utility>

#include "common/system/descriptor.hpp"

namespace muster {
namespace {

using Json = nlohmann::json;

bool write_whole(const std::string& path, const std::string& text) {
  const Descriptor file(
      ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600));
  std::size_t written = 0;
  while (file && written < text.size()) {
    const ssize_t got = ::write(file.get(), text.data() + written, text.size() - written);
    if (got <= 0) return false;
    written += static_cast<std::size_t>(got);
  }
  return static_cast<bool>(file);
}

}  // namespace

WantedNodes::WantedNodes(std::string path) : path_(std::move(path)) {
  std::ifstream file(path_, std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  if (text.empty()) return;
  try {
    for (const Json& entry : Json::parse(text)) {
      entries_.push_back({entry.at("origin"), entry.at("hosts"), entry.at("names")});
    }
  } catch (const Json::exception& error) {
    entries_.clear();
    spdlog::warn("'{}' does not say which nodes were wanted: {}", path_, error.what());
  }
}

void WantedNodes::up(Entry entry) {
  drop(entry.names);
  entries_.push_back(std::move(entry));
  write();
}

void WantedNodes::down(const std::vector<std::string>& names) {
  if (names.empty()) {
    entries_.clear();
  } else {
    drop(names);
  }
  write();
}

void WantedNodes::drop(const std::vector<std::string>& names) {
  for (Entry& entry : entries_) {
    std::erase_if(entry.names, [&](const std::string& name) {
      return std::find(names.begin(), names.end(), name) != names.end();
    });
  }
  std::erase_if(entries_, [](const Entry& entry) { return entry.names.empty(); });
}

void WantedNodes::write() const {
  if (entries_.empty()) {
    ::unlink(path_.c_str());
    return;
  }
  Json all = Json::array();
  for (const Entry& entry : entries_) {
    all.push_back({{"origin", entry.origin}, {"hosts", entry.hosts}, {"names", entry.names}});
  }
  const std::string text = all.dump(-1, ' ', false, Json::error_handler_t::replace);
  const std::string next = path_ + ".next";
  if (write_whole(next, text) && std::rename(next.c_str(), path_.c_str()) == 0) return;
  spdlog::warn("cannot write '{}': {}; after a crash of this broker bring its nodes up again",
               path_, std::strerror(errno));
}

}  // namespace muster
