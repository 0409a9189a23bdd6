// Maps of blobs: shared ones, private ones, and files that are not what was promised.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <memory>
#include <muster/blob.hpp>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include "tests/support/child.hpp"

namespace muster {
namespace {

using detail::BlobFile;

class FileAt final : public BlobFile {
 public:
  FileAt(std::string path, std::uint64_t bytes, std::uint64_t offset_bytes = 0)
      : BlobFile(1, 2, bytes), path_(std::move(path)), offset_bytes_(offset_bytes) {}
  Opened open() const override {
    const int descriptor = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC);
    if (descriptor < 0) throw BlobError("cannot open " + path_);
    return {descriptor, offset_bytes_};
  }

 private:
  const std::string path_;
  const std::uint64_t offset_bytes_;
};

class BlobMap : public ::testing::Test {
 protected:
  std::string write(const std::string& name, const std::string& text) {
    std::string path = folder.path(name);
    std::ofstream(path, std::ios::binary) << text;
    return path;
  }
  template <typename... Arguments>
  static Blob blob(const Arguments&... arguments) {
    return Blob(std::make_shared<FileAt>(arguments...));
  }
  // How often the file is mapped in this process.
  static std::size_t maps_of(const std::string& path) {
    std::ifstream maps("/proc/self/maps");
    std::size_t count = 0;
    for (std::string line; std::getline(maps, line);) {
      if (line.size() > path.size() && line.ends_with(path)) ++count;
    }
    return count;
  }

  testing::TemporaryFolder folder;
};

TEST_F(BlobMap, ShowsTheContent) {
  const std::string path = write("text", "immutable bytes");
  const Blob text = blob(path, std::uint64_t{15});
  EXPECT_TRUE(text);
  EXPECT_EQ(text.size(), 15U);
  EXPECT_EQ(text.bytes().text(), "immutable bytes");
}

TEST_F(BlobMap, HandlesOfOneFileShareOneMap) {
  const std::string path = write("shared", std::string(10'000, 'x'));
  const Blob first = blob(path, std::uint64_t{10'000});
  const Blob second = blob(path, std::uint64_t{10'000});
  EXPECT_EQ(maps_of(path), 0U) << "mapped before anybody asked";
  EXPECT_EQ(first.bytes().data(), second.bytes().data());
  EXPECT_EQ(maps_of(path), 1U);
}

TEST_F(BlobMap, AViewIsValidWhileTheBlobLives) {
  std::vector<double> numbers(100'000);
  std::iota(numbers.begin(), numbers.end(), 0.5);
  const std::string path = write("numbers", std::string(reinterpret_cast<char*>(numbers.data()),
                                                        numbers.size() * sizeof(double)));
  Blob blob_of = blob(path, std::uint64_t{800'000});
  const std::span<const double> view = blob_of.as<double>();  // no Bytes is kept
  EXPECT_EQ(maps_of(path), 1U);
  EXPECT_TRUE(std::equal(view.begin(), view.end(), numbers.begin(), numbers.end()));
  const Bytes kept = blob_of.bytes();
  blob_of = Blob();
  EXPECT_EQ(maps_of(path), 1U) << "the Bytes still needs it";
  EXPECT_EQ(kept.size(), 800'000U);
}

TEST_F(BlobMap, TheLastHandleEndsTheMap) {
  const std::string path = write("ends", std::string(5'000, 'x'));
  {
    const Blob held = blob(path, std::uint64_t{5'000});
    EXPECT_EQ(held.bytes().size(), 5'000U);
  }
  EXPECT_EQ(maps_of(path), 0U);
  EXPECT_EQ(blob(path, std::uint64_t{5'000}).bytes().text(), std::string(5'000, 'x'));
}

TEST_F(BlobMap, AnUnlinkedFileLivesOnInItsMap) {
  const std::string path = write("unlinked", "still here");
  const Blob held = blob(path, std::uint64_t{10});
  const Bytes bytes = held.bytes();
  std::filesystem::remove(path);
  write("unlinked", "another 10");
  EXPECT_EQ(held.bytes().text(), "still here");
  EXPECT_EQ(blob(path, std::uint64_t{10}).bytes().text(), "another 10");
}

TEST_F(BlobMap, WritesToAPrivateMapStayThere) {
  const std::string path = write("private", std::string(9'000, 'a'));
  const Blob original = blob(path, std::uint64_t{9'000});
  const std::shared_ptr<std::byte> copy = original.copy_on_write();
  const std::shared_ptr<std::byte> other = original.copy_on_write();
  copy.get()[8'999] = std::byte{'b'};
  EXPECT_EQ(original.bytes().text().back(), 'a');
  EXPECT_EQ(other.get()[8'999], std::byte{'a'});
  EXPECT_EQ(copy.get()[8'999], std::byte{'b'});
  std::ifstream file(path);
  EXPECT_EQ(std::string(std::istreambuf_iterator<char>(file), {}), std::string(9'000, 'a'));
}

TEST_F(BlobMap, APartMayBeginAnywhere) {
  std::string text(20'000, '.');
  text.replace(5'003, 4, "here");
  const std::string path = write("part", text);
  const Blob part = blob(path, std::uint64_t{4}, std::uint64_t{5'003});
  EXPECT_EQ(part.bytes().text(), "here");
  EXPECT_EQ(part.copy_on_write().get()[3], std::byte{'e'});
  EXPECT_THROW(part.as<std::uint32_t>(), BlobError) << "not aligned";
  EXPECT_EQ(blob(path, std::uint64_t{8}, std::uint64_t{4'096}).as<std::uint32_t>().size(), 2U);
}

TEST_F(BlobMap, NothingIsAContentAsWell) {
  const Blob empty = blob(write("empty", ""), std::uint64_t{0});
  EXPECT_TRUE(empty);
  EXPECT_TRUE(empty.bytes().empty());
  EXPECT_TRUE(empty.as<double>().empty());
  EXPECT_EQ(empty.copy_on_write(), nullptr);
  EXPECT_TRUE(Blob().bytes().empty());
}

TEST_F(BlobMap, AFileThatIsTooShortIsAnErrorAndNoCrash) {
  const std::string path = write("short", std::string(4'096, 'x'));
  const Blob longer = blob(path, std::uint64_t{8'192});
  const Blob beyond = blob(path, std::uint64_t{1}, std::uint64_t{4'096});
  const Blob far = blob(path, ~std::uint64_t{0}, std::uint64_t{16});
  for (const Blob& broken : {longer, beyond, far}) {
    EXPECT_THROW(broken.bytes(), BlobError);
    EXPECT_THROW(broken.copy_on_write(), BlobError);
  }
  try {
    longer.bytes();
  } catch (const BlobError& error) {
    EXPECT_NE(std::string(error.what()).find("4096 bytes"), std::string::npos) << error.what();
  }
  EXPECT_THROW(blob(folder.path("missing"), std::uint64_t{1}).bytes(), BlobError);
  EXPECT_THROW(blob(folder.path(""), std::uint64_t{1}).bytes(), BlobError) << "a folder";
}

TEST_F(BlobMap, ValuesOfAnotherSizeAreAnError) {
  const Blob odd = blob(write("odd", "12345"), std::uint64_t{5});
  EXPECT_THROW(odd.as<std::uint32_t>(), BlobError);
  EXPECT_EQ(odd.as<char>().size(), 5U);
}

TEST_F(BlobMap, ThreadsMayMapAndDropAtOnce) {
  const std::string path = write("threads", std::string(100'000, 'x'));
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (int thread = 0; thread < 4; ++thread) {
    threads.emplace_back([&] {
      for (int round = 0; round < 500; ++round) {
        const Bytes bytes = blob(path, std::uint64_t{100'000}).bytes();
        if (bytes.size() != 100'000 || bytes.text().back() != 'x') ++wrong;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
  EXPECT_EQ(maps_of(path), 0U);
}

}  // namespace
}  // namespace muster
