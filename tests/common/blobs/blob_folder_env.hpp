// A blob folder in a temporary place, with domain verbs. Owner: one test.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <memory>
#include <span>
#include <sstream>
#include <string>
#include <vector>

#include "common/blobs/blob_folder.hpp"
#include "tests/support/child.hpp"

namespace muster::testing {

using std::chrono::seconds;

inline constexpr std::uint64_t kMega = std::uint64_t{1} << 20;

inline BlobId id_of(std::uint64_t number) { return {0xfeedULL << 32, number}; }

inline std::string content_of(std::uint64_t number, std::uint64_t size) {
  std::string content(size, '\0');
  for (std::uint64_t i = 0; i < size; ++i) content[i] = static_cast<char>(number + i * 7 + i / 251);
  return content;
}

inline std::string text_of(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  return text.str();
}

inline std::span<const std::byte> bytes_of(const std::string& text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

class BlobFolderEnv : public ::testing::Test {
 protected:
  BlobFolderOptions options(std::uint64_t memory_limit, std::uint64_t disk_limit) const {
    BlobFolderOptions options;
    options.memory = memory_;
    options.disk = disk_;
    options.memory_limit_bytes = memory_limit;
    options.disk_limit_bytes = disk_limit;
    return options;
  }
  void open(std::uint64_t memory_limit, std::uint64_t disk_limit, bool lasting = false) {
    BlobFolderOptions its_options = options(memory_limit, disk_limit);
    its_options.lasting = lasting;
    blobs_ = std::make_unique<BlobFolder>(its_options);
    tick();
  }
  std::vector<BlobId> tick(Duration later = Duration(0)) {
    now_ += later;
    return blobs_->tick(now_);
  }

  // What a producer does: writes the file, then says so.
  std::string write_incoming(std::uint64_t number, std::uint64_t size,
                             const std::string& folder) const {
    std::string name = to_hex(id_of(number)) + ".abc";
    std::ofstream(folder + "/incoming/" + name, std::ios::binary) << content_of(number, size);
    return name;
  }
  std::string put(std::uint64_t number, std::uint64_t size, BlobPlace place = BlobPlace::memory) {
    const std::string& folder = place == BlobPlace::memory ? memory_ : disk_;
    return blobs_->adopt({{id_of(number), size}, place, write_incoming(number, size, folder)});
  }
  void keep(std::uint64_t number, std::uint64_t size) {
    ASSERT_EQ(put(number, size), "");
    blobs_->pin(id_of(number));
  }
  std::string stored(std::uint64_t number) const { return text_of(blobs_->path(id_of(number))); }
  bool holds(std::uint64_t number) const { return blobs_->holds(id_of(number)); }
  bool is_on_disk(std::uint64_t number) const {
    return std::filesystem::exists(disk_ + "/" + to_hex(id_of(number)));
  }
  bool is_in_memory(std::uint64_t number) const {
    return std::filesystem::exists(memory_ + "/" + to_hex(id_of(number)));
  }
  // Until the thread that copies is done with everything.
  bool wait_for_disk(std::uint64_t bytes) {
    return wait_until([&] {
      tick(std::chrono::milliseconds(20));
      return blobs_->memory_bytes() <= bytes;
    });
  }
  static std::size_t files_in(const std::string& folder) {
    std::error_code error;
    const std::filesystem::directory_iterator entries(folder, error);
    return error ? 0 : static_cast<std::size_t>(std::distance(begin(entries), end(entries)));
  }

  TemporaryFolder folder_;
  std::string memory_ = folder_.path("shm/store");
  std::string disk_ = folder_.path("cache/store");
  Time now_{seconds(1000)};
  std::unique_ptr<BlobFolder> blobs_;
};

}  // namespace muster::testing
