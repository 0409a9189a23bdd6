#include "producer/client/store_seal.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <optional>
#include <system_error>

#include "common/system/descriptor.hpp"
#include "common/system/user_cache.hpp"

namespace muster::detail {
namespace {

constexpr std::size_t kSealBytes = 32;
constexpr std::size_t kSealDigits = 2 * kSealBytes;

std::string random_seal() {
  std::array<unsigned char, kSealBytes> bytes{};
  // A read of so few bytes is whole, once the kernel has any.
  while (::getrandom(bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size())) {
    if (errno != EINTR) std::abort();  // never a seal that can be guessed
  }
  std::string digits;
  for (const unsigned char byte : bytes) digits += fmt::format("{:02x}", byte);
  return digits;
}

enum class Kind { good, none, exposed, foreign };

Kind read_seal(const std::string& path, std::string& seal) {
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
  if (!file) return errno == ENOENT ? Kind::none : Kind::foreign;
  struct stat status {};
  if (::fstat(file.get(), &status) != 0 || !S_ISREG(status.st_mode)) return Kind::foreign;
  if (status.st_uid != ::geteuid()) return Kind::foreign;
  if ((status.st_mode & 077U) != 0) return Kind::exposed;
  seal.assign(kSealDigits, '\0');
  const bool whole =
      ::read(file.get(), seal.data(), seal.size()) == static_cast<ssize_t>(kSealDigits);
  return whole && seal.find('\0') == std::string::npos ? Kind::good : Kind::exposed;
}

// Puts a new seal there, unless somebody else was quicker and nothing is to be replaced.
void write_seal(const std::string& path, bool replace) {
  std::error_code error;
  std::filesystem::create_directories(std::filesystem::path(path).parent_path(), error);
  std::string fresh = path + ".XXXXXX";
  const Descriptor file(::mkostemp(fresh.data(), O_CLOEXEC));  // mode 0600
  if (!file) return;
  const std::string seal = random_seal();
  if (::write(file.get(), seal.data(), seal.size()) == static_cast<ssize_t>(seal.size())) {
    if (replace) {
      ::rename(fresh.c_str(), path.c_str());
    } else {
      // link(2) replaces nothing: the second one reads what the first one wrote.
      [[maybe_unused]] const int linked = ::link(fresh.c_str(), path.c_str());
    }
  }
  ::unlink(fresh.c_str());
}

}  // namespace

std::string store_seal() {
  const std::string folder = user_cache();
  if (folder.empty()) return random_seal();
  const std::string path = folder + "/seal";
  std::string seal;
  Kind kind = read_seal(path, seal);
  if (kind == Kind::none || kind == Kind::exposed) {
    write_seal(path, kind == Kind::exposed);
    kind = read_seal(path, seal);
  }
  return kind == Kind::good ? seal : random_seal();
}

}  // namespace muster::detail
