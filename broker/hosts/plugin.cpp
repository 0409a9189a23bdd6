#include "broker/hosts/plugin.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <stdexcept>

#include "broker/hosts/digest.hpp"
#include "broker/hosts/host_text.hpp"

namespace muster {

void check_plugin(const std::string& path) {
  std::error_code error;
  const auto status = std::filesystem::status(path, error);
  if (!std::filesystem::exists(status)) {
    throw std::invalid_argument(fmt::format(
        "there is no file {} on this machine; build it first, or correct the path", quote(path)));
  }
  if (!std::filesystem::is_regular_file(status)) {
    throw std::invalid_argument(quote(path) +
                                " is not a file; name the shared libraries themselves");
  }
  if (::access(path.c_str(), R_OK) != 0) {
    throw std::invalid_argument(
        fmt::format("cannot read {}: {}", quote(path), std::strerror(errno)));
  }
}

Plugin describe_plugin(const std::string& path) {
  check_plugin(path);
  return {path, short_digest(sha256_of_file(path))};
}

}  // namespace muster
