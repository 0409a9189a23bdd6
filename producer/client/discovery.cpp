#include "producer/client/discovery.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <muster/producer.hpp>
#include <string_view>

#include "common/system/descriptor.hpp"

namespace muster {
namespace {

constexpr mode_t kOthers = 077;
constexpr std::string_view kIpc = "ipc://";

bool is_socket(const std::string& path) {
  struct stat entry {};
  return lstat(path.c_str(), &entry) == 0 && S_ISSOCK(entry.st_mode) && entry.st_uid == geteuid();
}

// A broker locks its endpoint for its life; the kernel undoes that however it ends.
bool is_locked(const std::string& path) {
  const Descriptor file(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  return file && flock(file.get(), LOCK_SH | LOCK_NB) != 0 && errno == EWOULDBLOCK;
}

}  // namespace

std::vector<std::string> runtime_folders() {
  std::vector<std::string> folders;
  const char* runtime = std::getenv("XDG_RUNTIME_DIR");
  if (runtime != nullptr && *runtime == '/' && access(runtime, W_OK | X_OK) == 0) {
    folders.push_back(std::string(runtime) + "/muster");
  }
  folders.push_back(fmt::format("/tmp/muster-{}", geteuid()));
  return folders;
}

std::string folder_complaint(const std::string& folder) {
  struct stat entry {};
  if (lstat(folder.c_str(), &entry) != 0) return "";
  if (!S_ISDIR(entry.st_mode)) return folder + " is not a folder: remove it";
  if (entry.st_uid != geteuid()) {
    return fmt::format(
        "{} belongs to user {}, not to you: set XDG_RUNTIME_DIR to a folder of yours", folder,
        entry.st_uid);
  }
  if ((entry.st_mode & kOthers) != 0) {
    return fmt::format("{} is open to other users: chmod 700 {}", folder, folder);
  }
  return "";
}

bool broker_serves(const std::string& endpoint) {
  if (!endpoint.starts_with(kIpc)) return false;
  const std::string path = endpoint.substr(kIpc.size());
  return is_socket(path) && is_locked(path + ".lock");
}

bool broker_runs(const std::string& endpoint) {
  if (broker_serves(endpoint)) return true;
  // A broker that crashed leaves its socket.
  return endpoint.starts_with(kIpc) && is_socket(endpoint.substr(kIpc.size())) &&
         broker_is_kept(endpoint);
}

bool broker_is_kept(const std::string& endpoint) {
  return endpoint.starts_with(kIpc) && is_locked(keeper_lock(endpoint));
}

std::string keeper_lock(const std::string& endpoint) {
  return endpoint.substr(kIpc.size()) + ".keeper";
}

bool somebody_listens(const std::string& endpoint) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string path = endpoint.substr(std::min(kIpc.size(), endpoint.size()));
  if (path.size() >= sizeof address.sun_path) return false;
  path.copy(address.sun_path, sizeof address.sun_path - 1);
  const Descriptor socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  const bool is_connected =
      ::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0;
  return is_connected || errno == EAGAIN;  // so many wait for it that there is no room
}

std::optional<std::string> running_broker() {
  for (const std::string& folder : runtime_folders()) {
    const std::string endpoint = "ipc://" + folder + "/broker";
    if (folder_complaint(folder).empty() && broker_runs(endpoint)) return endpoint;
  }
  return {};
}

std::string default_endpoint() {
  if (const char* variable = std::getenv("MUSTER_BROKER")) return variable;
  return running_broker().value_or("");
}

std::string endpoint_or_default(const std::string& given) {
  return given.empty() ? default_endpoint() : given;
}

}  // namespace muster
