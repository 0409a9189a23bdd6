// Digests of content, which name what is kept on nodes.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace muster {

// SHA-256 in hexadecimal digits.
std::string sha256_of(std::string_view text);
// Throws std::invalid_argument when the file cannot be read.
std::string sha256_of_file(const std::filesystem::path& file);
// The first 32 digits: what names a folder on nodes.
std::string short_digest(const std::string& sha256);

}  // namespace muster
