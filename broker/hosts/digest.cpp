#include "broker/hosts/digest.hpp"

#include <fmt/format.h>
#include <openssl/evp.h>

#include <array>
#include <fstream>
#include <memory>
#include <stdexcept>

namespace muster {
namespace {

template <typename Feed>
std::string sha256(const Feed& feed) {
  const std::unique_ptr<EVP_MD_CTX, void (*)(EVP_MD_CTX*)> context(EVP_MD_CTX_new(),
                                                                   EVP_MD_CTX_free);
  EVP_DigestInit_ex(context.get(), EVP_sha256(), nullptr);
  feed([&](const char* data, std::size_t size) { EVP_DigestUpdate(context.get(), data, size); });
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
  unsigned int size = 0;
  EVP_DigestFinal_ex(context.get(), digest.data(), &size);
  std::string text;
  for (unsigned int i = 0; i < size; ++i) text += fmt::format("{:02x}", digest[i]);
  return text;
}

}  // namespace

std::string sha256_of(std::string_view text) {
  return sha256([&](const auto& update) { update(text.data(), text.size()); });
}

std::string sha256_of_file(const std::filesystem::path& file) {
  std::ifstream input(file, std::ios::binary);
  if (!input) {
    throw std::invalid_argument(fmt::format(
        "cannot read {}: does it still exist, and is it yours to read?", file.string()));
  }
  return sha256([&](const auto& update) {
    std::array<char, 65536> buffer;
    while (input.read(buffer.data(), buffer.size()) || input.gcount() > 0) {
      update(buffer.data(), static_cast<std::size_t>(input.gcount()));
    }
  });
}

std::string short_digest(const std::string& sha256) { return sha256.substr(0, 32); }

}  // namespace muster
