#include "broker/nodes/hosts_reader.hpp"

#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <exception>
#include <filesystem>
#include <system_error>
#include <utility>

#include "broker/hosts/hosts_file.hpp"
#include "broker/hosts/plugin.hpp"
#include "common/system/quiet_thread.hpp"

namespace muster {

HostsReader::HostsReader(std::vector<std::string> plugins)
    : plugins_(std::move(plugins)), bell_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  if (!bell_) throw std::system_error(errno, std::generic_category(), "eventfd");
}

HostsReader::~HostsReader() {
  if (thread_.joinable()) thread_.join();
}

std::vector<Host> HostsReader::read(const std::string& text, const std::string& origin,
                                    std::string folder) const {
  if (folder.empty() && origin.starts_with('/')) {
    folder = std::filesystem::path(origin).parent_path().string();
  }
  std::vector<Host> hosts = parse_hosts(text, origin, folder);
  for (const std::string& path : plugins_) {
    const Plugin plugin = describe_plugin(path);
    for (Host& host : hosts) {
      const bool known =
          std::find(host.plugins.begin(), host.plugins.end(), plugin) != host.plugins.end();
      if (!known) host.plugins.push_back(plugin);
    }
  }
  return hosts;
}

void HostsReader::begin(const message::NodesUp& request) {
  thread_ = quiet_thread([this, request] {
    Result result;
    try {
      result.hosts = read(request.hosts, request.origin);
    } catch (const std::exception& error) {
      result.error = error.what();
    }
    result_ = std::move(result);
    const std::uint64_t one = 1;
    [[maybe_unused]] const ssize_t rung = ::write(bell_.get(), &one, sizeof one);
  });
}

std::optional<HostsReader::Result> HostsReader::take() {
  std::uint64_t rings = 0;
  if (::read(bell_.get(), &rings, sizeof rings) < 0) return std::nullopt;
  thread_.join();
  return std::exchange(result_, {});
}

}  // namespace muster
