#include "common/blobs/user_file.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <cerrno>
#include <charconv>
#include <cstring>

namespace muster {
namespace {

// Takes a number and the character after it from the front of `text`.
template <typename Number>
bool take_number(std::string_view& text, char end, Number& number) {
  const auto [rest, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  const auto used = static_cast<std::size_t>(rest - text.data());
  if (error != std::errc() || used == text.size() || *rest != end) return false;
  text.remove_prefix(used + 1);
  return true;
}

Descriptor open_to_read(const std::string& path, UserFile& facts, std::string& error) {
  Descriptor descriptor(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  struct stat found {};
  if (!descriptor || ::fstat(descriptor.get(), &found) != 0) {
    error = fmt::format("cannot open the file '{}': {}; tasks read it where it lies", path,
                        std::strerror(errno));
    return {};
  }
  if (!S_ISREG(found.st_mode)) {
    error = fmt::format("'{}' is not an ordinary file; pass its content instead", path);
    return {};
  }
  facts.device = found.st_dev;
  facts.inode = found.st_ino;
  facts.file_bytes = static_cast<std::uint64_t>(found.st_size);
  facts.modified_ns = std::int64_t{found.st_mtim.tv_sec} * 1'000'000'000 + found.st_mtim.tv_nsec;
  return descriptor;
}

}  // namespace

std::string encode_user_file(const UserFile& file) {
  return fmt::format("{} {} {} {} {} {}\n{}", file.offset_bytes, file.size_bytes, file.device,
                     file.inode, file.file_bytes, file.modified_ns, file.path);
}

std::optional<UserFile> decode_user_file(std::string_view text) {
  UserFile file;
  if (!take_number(text, ' ', file.offset_bytes) || !take_number(text, ' ', file.size_bytes) ||
      !take_number(text, ' ', file.device) || !take_number(text, ' ', file.inode) ||
      !take_number(text, ' ', file.file_bytes) || !take_number(text, '\n', file.modified_ns) ||
      !text.starts_with('/')) {
    return std::nullopt;
  }
  file.path = text;
  return file;
}

std::optional<UserFile> look_at_user_file(const std::string& path, std::uint64_t offset_bytes,
                                          std::uint64_t size_bytes, std::string& error) {
  UserFile file{path, offset_bytes, size_bytes, 0, 0, 0, 0};
  if (!path.starts_with('/')) {
    error = fmt::format("'{}' is not an absolute path", path);
    return std::nullopt;
  }
  if (!open_to_read(path, file, error)) return std::nullopt;
  if (offset_bytes > file.file_bytes || size_bytes > file.file_bytes - offset_bytes) {
    error = fmt::format("the file '{}' has {} bytes: there are no {} after the first {}", path,
                        file.file_bytes, size_bytes, offset_bytes);
    return std::nullopt;
  }
  return file;
}

Descriptor open_user_file(const UserFile& file, std::string& error) {
  UserFile now = file;
  Descriptor descriptor = open_to_read(file.path, now, error);
  if (!descriptor || now == file) return descriptor;
  error = fmt::format(
      "the file '{}' changed since the task was submitted; leave files alone that tasks work on, "
      "or submit again",
      file.path);
  return {};
}

}  // namespace muster
