// The blobs of one process as files: what is adopted or arrives, and who goes when room is short.
// What processes leave behind: blob_folder_life_test.cpp.
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>

#include "common/blobs/blob_shelf.hpp"
#include "common/blobs/user_file.hpp"
#include "tests/common/blobs/blob_folder_env.hpp"

namespace muster {
namespace {

using std::chrono::seconds;
using testing::bytes_of;
using testing::content_of;
using testing::id_of;
using testing::kMega;
using testing::text_of;
using testing::wait_until;

class BlobFolderTest : public testing::BlobFolderEnv {};

TEST_F(BlobFolderTest, WhatIsAdoptedHasItsNameAndNoWriters) {
  open(kMega, kMega);
  ASSERT_EQ(put(1, 1000), "");
  ASSERT_EQ(put(2, 2000, BlobPlace::disk), "");
  EXPECT_EQ(blobs_->path(id_of(1)), memory_ + "/" + to_hex(id_of(1)));
  EXPECT_EQ(stored(1), content_of(1, 1000));
  EXPECT_EQ(blobs_->path(id_of(2)), disk_ + "/" + to_hex(id_of(2)));
  EXPECT_EQ(stored(2), content_of(2, 2000));
  struct stat status {};
  ASSERT_EQ(stat(blobs_->path(id_of(1)).c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 07777U, 0400U);
  EXPECT_EQ(blobs_->memory_bytes(), 1000U);
  EXPECT_EQ(blobs_->disk_bytes(), 2000U);
  EXPECT_EQ(blobs_->count(), 2U);
  EXPECT_EQ(blobs_->path(id_of(3)), "");
  EXPECT_EQ(text_of(memory_ + "/token"), blobs_->token());
}

TEST_F(BlobFolderTest, TheSameBlobTwiceIsKeptOnce) {
  open(kMega, kMega);
  ASSERT_EQ(put(1, 1000), "");
  ASSERT_EQ(put(1, 1000), "");
  EXPECT_EQ(blobs_->memory_bytes(), 1000U);
  EXPECT_EQ(files_in(memory_ + "/incoming"), 0U);
  EXPECT_EQ(blobs_->adopt({{id_of(1), 1000}, BlobPlace::memory, to_hex(id_of(1)) + ".abc"}), "")
      << "said again, because the answer was lost";
  EXPECT_NE(put(1, 999), "");
  EXPECT_EQ(files_in(memory_ + "/incoming"), 0U);
}

TEST_F(BlobFolderTest, WhatIsNoFileOfThatSizeIsRefused) {
  open(kMega, kMega);
  const std::string name = write_incoming(1, 1000, memory_);
  EXPECT_NE(blobs_->adopt({{id_of(1), 1001}, BlobPlace::memory, name}), "");
  EXPECT_NE(blobs_->adopt({{id_of(1), 1000}, BlobPlace::memory, name}), "") << "it is gone";
  EXPECT_NE(blobs_->adopt({{id_of(1), 1000}, BlobPlace::memory, "../token"}), "");
  EXPECT_NE(blobs_->adopt({{id_of(1), 1000}, BlobPlace::memory, "."}), "");
  EXPECT_NE(blobs_->adopt({{id_of(1), 1000}, BlobPlace::memory, ""}), "");
  EXPECT_NE(blobs_->adopt({{id_of(1), 1000}, BlobPlace::kept, "x"}), "");
  std::filesystem::create_symlink("/etc/passwd", memory_ + "/incoming/link");
  EXPECT_NE(blobs_->adopt(
                {{id_of(1), std::filesystem::file_size("/etc/passwd")}, BlobPlace::memory, "link"}),
            "");
  EXPECT_FALSE(holds(1));
  EXPECT_EQ(blobs_->memory_bytes(), 0U);
}

TEST_F(BlobFolderTest, AFileIsTakenOnlyFromItsMaker) {
  open(kMega, kMega);
  const std::string name = write_incoming(1, 1000, memory_);
  const BlobSource source{{id_of(1), 1000}, BlobPlace::memory, name};
  const std::uint32_t maker = geteuid();
  EXPECT_NE(blobs_->adopt(source, maker + 1), "");
  EXPECT_FALSE(holds(1));
  EXPECT_EQ(files_in(memory_ + "/incoming"), 1U) << "nobody else takes it away";
  EXPECT_EQ(blobs_->adopt(source, maker), "");
  EXPECT_TRUE(holds(1));
  EXPECT_EQ(files_in(memory_ + "/incoming"), 0U);
}

TEST_F(BlobFolderTest, AFileThatIsExchangedWhileItIsTakenIsNone) {
  BlobShelf shelf(memory_, kMega, {});
  const std::string name = write_incoming(1, 1000, memory_);
  const Descriptor opened = shelf.open_incoming(name);
  const std::string secret = folder_.path("secret");
  std::ofstream(secret) << "secret";
  std::filesystem::permissions(secret, std::filesystem::perms::owner_read);
  for (const bool is_link : {true, false}) {
    std::filesystem::remove(memory_ + "/incoming/" + name);
    if (is_link) {
      std::filesystem::create_symlink(secret, memory_ + "/incoming/" + name);
    } else {
      std::filesystem::create_hard_link(secret, memory_ + "/incoming/" + name);
    }
    EXPECT_EQ(shelf.place(name, id_of(1), opened.get()), ESTALE);
    EXPECT_FALSE(shelf.open_blob(id_of(1)));
    EXPECT_EQ(std::filesystem::status(secret).permissions(), std::filesystem::perms::owner_read);
  }
}

TEST_F(BlobFolderTest, AWorkersFileIsFoundInEitherFolder) {
  open(kMega, kMega);
  write_incoming(1, 1000, disk_);
  EXPECT_EQ(blobs_->adopt_from({id_of(1), 1000}, "abc"), "");
  EXPECT_EQ(stored(1), content_of(1, 1000));
  EXPECT_EQ(blobs_->adopt_from({id_of(1), 1000}, "abc"), "") << "it has it already";
  EXPECT_NE(blobs_->adopt_from({id_of(2), 1000}, "abc"), "");
  EXPECT_NE(blobs_->adopt_from({id_of(2), 1000}, "../../abc"), "");
}

TEST_F(BlobFolderTest, PiecesMakeABlobInAnyOrder) {
  open(kMega, kMega);
  const std::string content = content_of(1, 1000);
  const auto piece = [&](std::size_t from, std::size_t size) {
    return blobs_->write(id_of(1), from, bytes_of(content).subspan(from, size));
  };
  EXPECT_NE(piece(0, 10), "") << "it was not begun";
  ASSERT_EQ(blobs_->begin({id_of(1), 1000}), "");
  EXPECT_NE(blobs_->begin({id_of(1), 1000}), "") << "one at a time";
  EXPECT_EQ(piece(600, 400), "");
  EXPECT_EQ(piece(0, 300), "");
  EXPECT_NE(blobs_->write(id_of(1), 900, bytes_of(content).first(101)), "") << "beyond its end";
  EXPECT_NE(blobs_->write(id_of(1), UINT64_MAX, bytes_of(content).first(2)), "");
  EXPECT_NE(blobs_->finish(id_of(1)), "") << "a part is missing";
  EXPECT_EQ(piece(250, 350), "");
  EXPECT_FALSE(holds(1));
  ASSERT_EQ(blobs_->finish(id_of(1)), "");
  EXPECT_EQ(stored(1), content);
  EXPECT_EQ(blobs_->memory_bytes(), 1000U);
  ASSERT_EQ(blobs_->begin({id_of(2), 0}), "");
  EXPECT_EQ(blobs_->finish(id_of(2)), "") << "an empty one needs no piece";
  ASSERT_EQ(blobs_->begin({id_of(3), 5000}), "");
  EXPECT_EQ(blobs_->memory_bytes(), 6000U);
  blobs_->abandon(id_of(3));
  EXPECT_EQ(blobs_->memory_bytes(), 1000U);
  EXPECT_EQ(files_in(memory_ + "/incoming"), 0U);
}

TEST_F(BlobFolderTest, ReadsAnyPart) {
  open(kMega, kMega);
  ASSERT_EQ(put(1, 1000), "");
  std::string piece(300, '\0');
  const auto read = [&](std::uint64_t from) {
    return blobs_->read(id_of(1), from, std::as_writable_bytes(std::span(piece)));
  };
  EXPECT_EQ(read(700), "");
  EXPECT_EQ(piece, content_of(1, 1000).substr(700));
  EXPECT_NE(read(701), "");
  EXPECT_NE(read(UINT64_MAX - 5), "");
  EXPECT_NE(blobs_->read(id_of(2), 0, {}), "");
}

TEST_F(BlobFolderTest, AFileOfTheUsersIsReadInPlaceUntilItChanges) {
  open(kMega, kMega);
  const std::string path = folder_.path("data.npy");
  std::ofstream(path) << "header" << content_of(1, 1000);
  const BlobSource source{{id_of(1), 1000}, BlobPlace::file, path, 6};
  BlobSource beyond = source;
  beyond.offset = 7;
  EXPECT_NE(blobs_->adopt(beyond), "");
  beyond.offset = UINT64_MAX;
  EXPECT_NE(blobs_->adopt(beyond), "");
  EXPECT_NE(blobs_->adopt({{id_of(1), 1000}, BlobPlace::file, "data.npy", 0}), "");
  EXPECT_NE(blobs_->adopt({{id_of(1), 1000}, BlobPlace::file, folder_.path("none"), 0}), "");
  ASSERT_EQ(blobs_->adopt(source), "");
  EXPECT_EQ(blobs_->disk_bytes(), 0U);
  EXPECT_EQ(blobs_->path(id_of(1)), path);
  const auto told = decode_user_file(text_of(disk_ + "/" + to_hex(id_of(1)) + ".file"));
  ASSERT_TRUE(told);
  EXPECT_EQ(told->path, path);
  EXPECT_EQ(told->offset_bytes, 6U);
  EXPECT_EQ(told->size_bytes, 1000U);
  std::string piece(1000, '\0');
  EXPECT_EQ(blobs_->read(id_of(1), 0, std::as_writable_bytes(std::span(piece))), "");
  EXPECT_EQ(piece, content_of(1, 1000));
  std::ofstream(path) << "other" << content_of(2, 1001);
  std::filesystem::last_write_time(path, std::filesystem::last_write_time(path) + seconds(1));
  EXPECT_NE(blobs_->read(id_of(1), 0, std::as_writable_bytes(std::span(piece))), "");
  blobs_->pin(id_of(1));
  blobs_->unpin(id_of(1), false, now_);
  EXPECT_EQ(files_in(disk_), 3U) << "lock, incoming and owners";
  EXPECT_TRUE(std::filesystem::exists(path));
}

TEST_F(BlobFolderTest, PinnedBlobsStayOthersExpire) {
  open(kMega, kMega);
  ASSERT_EQ(put(1, 1000), "");
  keep(2, 1000);
  keep(3, 1000);
  keep(3, 1000);  // counted
  EXPECT_TRUE(tick().empty());
  EXPECT_LE(blobs_->next_deadline(), now_ + seconds(60));
  EXPECT_EQ(tick(seconds(60)), std::vector{id_of(1)});
  EXPECT_FALSE(std::filesystem::exists(memory_ + "/" + to_hex(id_of(1))));
  blobs_->unpin(id_of(2), true, now_);
  blobs_->unpin(id_of(3), false, now_);
  EXPECT_TRUE(tick(seconds(59)).empty());
  EXPECT_TRUE(holds(2));
  blobs_->unpin(id_of(3), false, now_);
  EXPECT_FALSE(holds(3)) << "results are not cached";
  EXPECT_EQ(tick(), std::vector{id_of(3)});
  EXPECT_EQ(tick(seconds(1)), std::vector{id_of(2)});
  EXPECT_EQ(blobs_->memory_bytes(), 0U);
  blobs_->unpin(id_of(2), true, now_);  // of nothing
}

TEST_F(BlobFolderTest, ThoseUsedLongestAgoMakeRoom) {
  open(3000, 0);
  ASSERT_EQ(put(1, 1000), "");
  ASSERT_EQ(put(2, 1000), "");
  ASSERT_EQ(put(3, 1000), "");
  std::string piece(10, '\0');
  ASSERT_EQ(blobs_->read(id_of(1), 0, std::as_writable_bytes(std::span(piece))), "");
  ASSERT_EQ(put(4, 1000), "");
  EXPECT_FALSE(holds(2));
  EXPECT_TRUE(holds(1) && holds(3) && holds(4));
  ASSERT_EQ(blobs_->begin({id_of(5), 1000}), "");
  EXPECT_FALSE(holds(3));
  const std::vector<BlobId> gone = tick();
  EXPECT_EQ(gone, (std::vector{id_of(2), id_of(3)}));
}

TEST_F(BlobFolderTest, WhatIsCachedInMemoryLeavesRoomForWriters) {
  BlobFolderOptions its_options = options(10 * kMega, 100 * kMega);
  its_options.memory_cached_bytes = 4 * kMega;
  blobs_ = std::make_unique<BlobFolder>(its_options);
  for (std::uint64_t number = 1; number <= 4; ++number) {
    keep(number, 2 * kMega);
    tick();
  }
  EXPECT_EQ(blobs_->memory_bytes(), 8 * kMega) << "pinned ones may fill it";
  for (const std::uint64_t number : {3, 1, 4, 2}) blobs_->unpin(id_of(number), true, now_);
  EXPECT_EQ(tick(), (std::vector{id_of(3), id_of(1)}));
  EXPECT_TRUE(is_in_memory(4) && is_in_memory(2));
  EXPECT_EQ(blobs_->disk_bytes(), 0U) << "what nobody needs is not copied to disk";
}

TEST_F(BlobFolderTest, WhatArrivesTakesMemoryOfCachedBlobsBeforeDisk) {
  open(4 * kMega, 100 * kMega);
  for (std::uint64_t number = 1; number <= 4; ++number) ASSERT_EQ(put(number, kMega), "");
  ASSERT_EQ(blobs_->begin({id_of(5), 2 * kMega}), "");
  EXPECT_FALSE(holds(1) || holds(2));
  EXPECT_TRUE(holds(3) && holds(4));
  EXPECT_EQ(blobs_->disk_bytes(), 0U);
}

TEST_F(BlobFolderTest, NothingPinnedMakesRoomAndTheErrorSaysSo) {
  open(2000, 1000);
  keep(1, 1500);
  EXPECT_NE(put(2, 4000).find("no room"), std::string::npos);
  EXPECT_NE(blobs_->begin({id_of(2), 4000}).find("no room"), std::string::npos);
  EXPECT_NE(blobs_->begin({id_of(2), UINT64_MAX}).find("no room"), std::string::npos);
  EXPECT_EQ(files_in(memory_ + "/incoming"), 0U);
  ASSERT_EQ(blobs_->begin({id_of(2), 900}), "") << "on disk";
  EXPECT_EQ(blobs_->disk_bytes(), 900U);
  EXPECT_NE(blobs_->begin({id_of(3), 600}).find("no room"), std::string::npos);
  EXPECT_TRUE(holds(1));
}

TEST_F(BlobFolderTest, WhatMemoryHasNoRoomForMovesToDiskEvenIfPinned) {
  open(2 * kMega, 20 * kMega);
  for (std::uint64_t number = 1; number <= 8; ++number) {
    keep(number, kMega);
    ASSERT_TRUE(holds(number));
  }
  ASSERT_TRUE(wait_for_disk(2 * kMega)) << blobs_->memory_bytes() << " " << blobs_->trouble();
  for (std::uint64_t number = 1; number <= 8; ++number) {
    EXPECT_EQ(stored(number), content_of(number, kMega)) << number;
    EXPECT_NE(is_in_memory(number), is_on_disk(number)) << number;
  }
  EXPECT_TRUE(is_on_disk(1)) << "the one used longest ago";
  EXPECT_TRUE(is_in_memory(8));
  EXPECT_EQ(blobs_->disk_bytes(), 6 * kMega);
  EXPECT_EQ(files_in(disk_ + "/incoming"), 0U);
  EXPECT_EQ(blobs_->trouble(), "");
}

TEST_F(BlobFolderTest, ABlobThatGoesWhileItMovesLeavesNothing) {
  open(0, 200 * kMega);
  keep(1, 50 * kMega);
  tick();  // the move begins
  blobs_->unpin(id_of(1), false, now_);
  EXPECT_FALSE(holds(1));
  keep(2, kMega);
  ASSERT_TRUE(wait_for_disk(0));
  ASSERT_TRUE(wait_until([&] {
    tick(std::chrono::milliseconds(20));
    return blobs_->disk_bytes() == kMega && files_in(disk_ + "/incoming") == 0;
  }));
  EXPECT_FALSE(is_on_disk(1));
  EXPECT_EQ(stored(2), content_of(2, kMega));
}

// A file system of its own, as small as one likes.
class TinyMount {
 public:
  TinyMount(std::string path, std::uint64_t bytes) : path_(std::move(path)) {
    std::filesystem::create_directories(path_);
    const std::string size = "mode=0700,size=" + std::to_string(bytes);
    mounted_ = mount("muster-test", path_.c_str(), "tmpfs", 0, size.c_str()) == 0;
  }
  ~TinyMount() {
    if (mounted_) umount2(path_.c_str(), MNT_DETACH);
  }
  TinyMount(const TinyMount&) = delete;
  TinyMount& operator=(const TinyMount&) = delete;
  explicit operator bool() const { return mounted_; }

 private:
  std::string path_;
  bool mounted_ = false;
};

TEST_F(BlobFolderTest, AFullMemoryFileSystemIsNoReasonToFail) {
  const TinyMount mount(folder_.path("tiny"), 4 * kMega);
  if (!mount) GTEST_SKIP() << "needs the right to mount";
  memory_ = folder_.path("tiny/store");
  open(100 * kMega, 100 * kMega);  // more than there is
  const std::string content = content_of(1, kMega);
  for (std::uint64_t number = 1; number <= 8; ++number) {
    ASSERT_EQ(blobs_->begin({id_of(number), kMega}), "") << number;
    ASSERT_EQ(blobs_->write(id_of(number), 0, bytes_of(content)), "") << number;
    ASSERT_EQ(blobs_->finish(id_of(number)), "") << number;
    blobs_->pin(id_of(number));
  }
  EXPECT_LT(blobs_->memory_bytes(), 4 * kMega);
  EXPECT_GE(blobs_->disk_bytes(), 4 * kMega);
}

TEST_F(BlobFolderTest, BlobsThatArriveAtOnceAreNotPromisedTheSameRoom) {
  const TinyMount mount(folder_.path("tiny"), 4 * kMega);
  if (!mount) GTEST_SKIP() << "needs the right to mount";
  memory_ = folder_.path("tiny/store");
  open(100 * kMega, 100 * kMega);  // more than there is
  for (std::uint64_t number = 1; number <= 4; ++number) {
    ASSERT_EQ(blobs_->begin({id_of(number), 2 * kMega}), "") << number;
  }
  EXPECT_GE(blobs_->disk_bytes(), 6 * kMega);
  blobs_->abandon(id_of(1));
  ASSERT_EQ(blobs_->begin({id_of(5), 2 * kMega}), "");
  EXPECT_EQ(blobs_->memory_bytes(), 2 * kMega) << "what was given up is free again";
  const std::string half = content_of(5, kMega);
  for (std::uint64_t number = 2; number <= 5; ++number) {
    for (const std::uint64_t offset : {std::uint64_t{0}, kMega, kMega}) {
      ASSERT_EQ(blobs_->write(id_of(number), offset, bytes_of(half)), "") << number;
    }
    ASSERT_EQ(blobs_->finish(id_of(number)), "") << number;
  }
  EXPECT_EQ(stored(5), half + half);
}

TEST_F(BlobFolderTest, AFullDiskIsToldAndNothingIsLost) {
  const TinyMount mount(folder_.path("tiny"), 4 * kMega);
  if (!mount) GTEST_SKIP() << "needs the right to mount";
  disk_ = folder_.path("tiny/store");
  open(2 * kMega, 100 * kMega);
  std::string error;
  std::uint64_t count = 0;
  while (error.empty() && count < 20) {
    error = put(++count, kMega);
    if (error.empty()) blobs_->pin(id_of(count));
    tick(std::chrono::milliseconds(20));
  }
  EXPECT_NE(error.find("no room"), std::string::npos);
  EXPECT_NE(error.find(disk_), std::string::npos) << error;
  EXPECT_GE(count, 4U);
  ASSERT_TRUE(wait_until([&] {
    tick(std::chrono::milliseconds(20));
    return files_in(disk_ + "/incoming") == 0;
  }));
  for (std::uint64_t number = 1; number < count; ++number) {
    EXPECT_EQ(stored(number), content_of(number, kMega)) << number;
  }
}

}  // namespace
}  // namespace muster
