#include "broker/door/endpoint_lock.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <system_error>
#include <thread>
#include <utility>

#include "common/net/transport.hpp"

namespace muster {
namespace {

// A program that looks for a broker holds the lock for a moment, to see whether it can.
bool take_lock(int descriptor) {
  constexpr int kTries = 50;
  constexpr std::chrono::milliseconds kPause{5};
  for (int i = 0; i < kTries; ++i) {
    if (i > 0) std::this_thread::sleep_for(kPause);
    if (flock(descriptor, LOCK_EX | LOCK_NB) == 0) return true;
  }
  return false;
}

}  // namespace

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
  if (!take_lock(descriptor_)) {
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
