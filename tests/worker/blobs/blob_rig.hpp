// A worker's blob folder with nobody behind it, and the variables that lead a runner to it.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <initializer_list>
#include <string>
#include <vector>

#include "common/protocol/blob_names.hpp"
#include "common/protocol/codec.hpp"
#include "tests/support/child.hpp"
#include "worker/blobs/task_blobs.hpp"

namespace muster {

class BlobRig {
 public:
  BlobRig() {
    for (const char* place : {"memory", "disk"}) {
      std::filesystem::create_directories(folder.path(place) + "/incoming");
    }
    ::setenv("MUSTER_BLOBS", folder.path("").c_str(), 1);
    ::setenv("MUSTER_BLOB_OWNER", kOwner, 1);
  }
  ~BlobRig() {
    ::unsetenv("MUSTER_BLOBS");
    ::unsetenv("MUSTER_BLOB_OWNER");
  }
  BlobRig(const BlobRig&) = delete;
  BlobRig& operator=(const BlobRig&) = delete;

  BlobHome home() const { return {folder.path(""), kOwner}; }
  std::string path(const BlobName& name, const std::string& place = "memory") const {
    return folder.path(place + "/" + to_hex(name.id));
  }
  BlobName put(const std::string& content, const std::string& place = "memory") const {
    const BlobName name{digest_of(std::as_bytes(std::span(content))), content.size()};
    const std::string file = path(name, place);  // not again: somebody may have mapped it
    if (!std::filesystem::exists(file)) std::ofstream(file, std::ios::binary) << content;
    return name;
  }
  static std::string read(const std::string& file) {
    std::string content(std::filesystem::file_size(file), '\0');
    std::ifstream(file, std::ios::binary)
        .read(content.data(), static_cast<std::streamsize>(content.size()));
    return content;
  }
  BlobName put_file(const std::string& file) const { return put(read(file)); }
  static Payload payload(std::initializer_list<BlobName> names, Bytes body = {}) {
    return with_blobs(std::vector<BlobName>(names), {std::move(body), 0});
  }
  // The files of results that nobody has taken.
  std::vector<std::string> incoming(const std::string& place = "memory") const {
    std::vector<std::string> files;
    for (const auto& entry :
         std::filesystem::directory_iterator(folder.path(place) + "/incoming")) {
      files.push_back(entry.path().string());
    }
    return files;
  }
  // What the daemon or the broker does with an outcome: moves its blobs into place, and reads them.
  std::vector<std::string> take(const Payload& payload) const {
    std::vector<std::string> contents;
    for (std::size_t i = 0; i < payload.blobs; ++i) {
      const BlobName name = blob_at(payload, i);
      for (const char* place : {"memory", "disk"}) {
        const std::string file = folder.path(place) + "/incoming/" + to_hex(name.id) + "." + kOwner;
        if (!std::filesystem::exists(file)) continue;
        EXPECT_EQ(std::filesystem::file_size(file), name.size_bytes);
        std::filesystem::rename(file, path(name, place));
        contents.push_back(read(path(name, place)));
      }
      EXPECT_EQ(contents.size(), i + 1) << "no file for the blob";
    }
    return contents;
  }

  static constexpr const char* kOwner = "00000000000000010000000000000002";
  testing::TemporaryFolder folder;
};

}  // namespace muster
