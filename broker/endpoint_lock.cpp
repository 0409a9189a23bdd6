#include "broker/endpoint_lock.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <system_error>
#include <utility>

#include "common/transport.hpp"

namespace muster {

EndpointLock::EndpointLock(const std::string& endpoint)
    : path_(endpoint.substr(std::string_view("ipc://").size())) {
  const std::filesystem::path folder = std::filesystem::path(path_).parent_path();
  umask(0077);  // the socket is for this user only
  std::error_code error;
  if (!folder.empty()) std::filesystem::create_directories(folder, error);
  const std::string lock = path_ + ".lock";
  descriptor_ = open(lock.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (descriptor_ < 0) {
    throw TransportError(
        fmt::format("cannot create '{}': {}; choose a folder that you may write to", lock,
                    std::strerror(errno)));
  }
  if (flock(descriptor_, LOCK_EX | LOCK_NB) != 0) {
    close(descriptor_);
    throw TransportError(fmt::format(
        "another broker already listens on '{}'; connect to it, or choose another path", endpoint));
  }
}

EndpointLock::EndpointLock(EndpointLock&& other) noexcept
    : path_(std::move(other.path_)), descriptor_(std::exchange(other.descriptor_, -1)) {}

EndpointLock::~EndpointLock() {
  if (descriptor_ < 0) return;
  unlink(path_.c_str());
  unlink((path_ + ".lock").c_str());
  close(descriptor_);
}

}  // namespace muster
