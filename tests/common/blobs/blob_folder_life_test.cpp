// What a process leaves in its blob folders, and who takes it over.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <fstream>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "common/blobs/folder_claim.hpp"
#include "common/blobs/owner_mark.hpp"
#include "tests/common/blobs/blob_folder_env.hpp"

namespace muster {
namespace {

using std::chrono::seconds;
using testing::bytes_of;
using testing::content_of;
using testing::id_of;
using testing::kMega;

class BlobFolderLifeTest : public testing::BlobFolderEnv {};

TEST_F(BlobFolderLifeTest, WhatAnOwnerLeftIsCleared) {
  open(kMega, kMega);
  const std::string other = memory_ + "/incoming/" + to_hex(id_of(7)) + ".def";
  std::ofstream(other) << "x";
  write_incoming(1, 10, memory_);
  write_incoming(2, 10, disk_);
  blobs_->clear_incoming("abc");
  EXPECT_EQ(files_in(disk_ + "/incoming"), 0U);
  EXPECT_EQ(files_in(memory_ + "/incoming"), 1U);
  // Nobody has written to it for long.
  std::filesystem::last_write_time(other, std::filesystem::last_write_time(other) - seconds(700));
  write_incoming(3, 10, memory_);
  tick(seconds(120));
  EXPECT_TRUE(std::filesystem::exists(other)) << "its owner may just have heard of this broker";
  tick(seconds(600));
  EXPECT_FALSE(std::filesystem::exists(other));
  EXPECT_EQ(files_in(memory_ + "/incoming"), 1U);
}

TEST_F(BlobFolderLifeTest, WhatALivingOwnerWroteWaitsForItAndThatOfADeadOneGoes) {
  open(kMega, kMega);
  const auto write = [&](const std::string& owner) {
    std::string path = memory_ + "/incoming/" + to_hex(id_of(7)) + "." + owner;
    std::ofstream(path) << "x";
    std::filesystem::last_write_time(path, std::filesystem::last_write_time(path) - seconds(700));
    return path;
  };
  const std::string living = write("living");
  const std::string dead = write("dead");
  const std::string fresh = memory_ + "/incoming/" + to_hex(id_of(8)) + ".dead";
  std::ofstream(fresh) << "its outcome may be on its way";
  std::optional<OwnerMark> life(std::in_place, memory_, "living");
  std::ofstream(memory_ + "/owners/dead") << "";  // nobody locks it
  tick(seconds(10));
  EXPECT_TRUE(std::filesystem::exists(living));
  EXPECT_FALSE(std::filesystem::exists(dead));
  EXPECT_TRUE(std::filesystem::exists(fresh));
  tick(seconds(3600));
  EXPECT_TRUE(std::filesystem::exists(living));
  life.emplace(memory_, "living");  // again, for a broker that came back
  tick(seconds(3600));
  EXPECT_TRUE(std::filesystem::exists(living));
  life.reset();
  tick(seconds(3600));
  EXPECT_FALSE(std::filesystem::exists(living)) << "it is like any other now";
}

TEST_F(BlobFolderLifeTest, TwoCannotHaveTheSameFolder) {
  open(kMega, kMega);
  EXPECT_THROW(BlobFolder(options(kMega, kMega)), std::runtime_error);
}

TEST_F(BlobFolderLifeTest, AFolderThatOthersCanChangeIsNotUsed) {
  std::filesystem::create_directories(memory_);
  chmod(memory_.c_str(), 0777);
  EXPECT_THROW(BlobFolder(options(kMega, kMega)), std::runtime_error);
}

TEST_F(BlobFolderLifeTest, NothingIsLeftBehind) {
  open(kMega, kMega);
  keep(1, 1000);
  ASSERT_EQ(blobs_->begin({id_of(2), 1000}), "");
  blobs_.reset();
  EXPECT_FALSE(std::filesystem::exists(memory_));
  EXPECT_FALSE(std::filesystem::exists(disk_));
}

TEST_F(BlobFolderLifeTest, FoldersThatOnlyMusterUsesGoWithWhatWasLastInThem) {
  BlobFolderOptions first = options(kMega, kMega);
  first.memory = folder_.path("shm/muster-1/store");
  first.memory_top = folder_.path("shm/muster-1");
  first.disk = folder_.path("cache/muster/blobs/store");
  first.disk_top = folder_.path("cache/muster");
  BlobFolderOptions second = first;
  second.memory += "2";
  second.disk += "2";
  blobs_ = std::make_unique<BlobFolder>(first);
  auto other = std::make_unique<BlobFolder>(second);
  std::ofstream(folder_.path("cache/muster/config")) << "somebody's";
  blobs_.reset();
  EXPECT_EQ(files_in(folder_.path("shm/muster-1")), 1U) << "the other's";
  EXPECT_EQ(files_in(folder_.path("cache/muster/blobs")), 1U);
  other.reset();
  EXPECT_FALSE(std::filesystem::exists(folder_.path("shm/muster-1")));
  EXPECT_TRUE(std::filesystem::exists(folder_.path("shm"))) << "it is not ours";
  EXPECT_FALSE(std::filesystem::exists(folder_.path("cache/muster/blobs")));
  EXPECT_TRUE(std::filesystem::exists(folder_.path("cache/muster/config")));
  // One that somebody named is that person's.
  second.disk_top.clear();
  other = std::make_unique<BlobFolder>(second);
  other.reset();
  EXPECT_TRUE(std::filesystem::exists(folder_.path("cache/muster/blobs")));
}

TEST_F(BlobFolderLifeTest, FoldersAreMadeWhileOthersRemoveThoseAboveThem) {
  constexpr int kThreads = 4;
  constexpr int kTimes = 300;
  const std::string top = folder_.path("cache/muster");
  std::vector<std::string> errors(kThreads);
  std::vector<std::thread> threads;
  for (int number = 0; number < kThreads; ++number) {
    threads.emplace_back([&, number] {
      try {
        for (int i = 0; i < kTimes; ++i) {
          FolderClaim claim(top + "/blobs/" + std::to_string(number), {.top = top});
          if (!std::filesystem::exists(claim.path() + "/lock")) throw std::runtime_error("gone");
          claim.remove();
        }
      } catch (const std::exception& error) {
        errors[static_cast<std::size_t>(number)] = error.what();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(errors, std::vector<std::string>(kThreads));
  EXPECT_FALSE(std::filesystem::exists(top));
}

TEST_F(BlobFolderLifeTest, ALastingOneLeavesWhatIsPinnedToItsSuccessor) {
  open(kMega, kMega, true);
  keep(1, 1000);
  ASSERT_EQ(put(2, 1000, BlobPlace::disk), "");
  blobs_->pin(id_of(2));
  ASSERT_EQ(put(3, 1000), "");
  const std::string path = folder_.path("data");
  std::ofstream(path) << content_of(4, 1000);
  ASSERT_EQ(blobs_->adopt({{id_of(4), 500}, BlobPlace::file, path, 100}), "");
  blobs_->pin(id_of(4));
  blobs_.reset();
  open(kMega, kMega, true);
  EXPECT_EQ(blobs_->count(), 3U);
  EXPECT_EQ(stored(1), content_of(1, 1000));
  EXPECT_EQ(stored(2), content_of(2, 1000));
  std::string piece(500, '\0');
  EXPECT_EQ(blobs_->read(id_of(4), 0, std::as_writable_bytes(std::span(piece))), "");
  EXPECT_EQ(piece, content_of(4, 1000).substr(100, 500));
  EXPECT_EQ(blobs_->memory_bytes(), 1000U);
  EXPECT_EQ(blobs_->disk_bytes(), 1000U);
  tick();
  EXPECT_EQ(tick(seconds(61)).size(), 3U) << "nobody asked for them again";
  blobs_.reset();
  EXPECT_FALSE(std::filesystem::exists(memory_)) << "nothing worth keeping";
}

// Runs in a child that is killed in the middle: no destructor runs.
void make_and_die(const BlobFolderOptions& options, const std::string& content) {
  const pid_t child = fork();
  if (child == 0) {
    BlobFolder blobs(options);
    if (!blobs.begin({id_of(1), content.size()}).empty()) _exit(1);
    if (!blobs.write(id_of(1), 0, bytes_of(content)).empty()) _exit(2);
    if (!blobs.finish(id_of(1)).empty()) _exit(3);
    blobs.pin(id_of(1));
    if (!blobs.begin({id_of(2), 100}).empty()) _exit(4);
    raise(SIGKILL);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFSIGNALED(status)) << WEXITSTATUS(status);
}

TEST_F(BlobFolderLifeTest, ASuccessorTakesOverFromOneThatWasKilled) {
  BlobFolderOptions its_options = options(kMega, kMega);
  its_options.lasting = true;
  make_and_die(its_options, content_of(1, 1000));
  // Another one's start does not take it away from its successor.
  remove_dead_folders(folder_.path("shm"));
  ASSERT_TRUE(is_in_memory(1));
  open(kMega, kMega, true);
  EXPECT_EQ(stored(1), content_of(1, 1000));
  EXPECT_FALSE(holds(2));
  EXPECT_EQ(files_in(memory_ + "/incoming"), 0U);
}

TEST_F(BlobFolderLifeTest, AnOwnerThatNeverComesBackLeavesNothingForLong) {
  make_and_die(options(kMega, kMega), content_of(1, 1000));
  ASSERT_TRUE(is_in_memory(1));
  memory_ += "2";
  disk_ += "2";
  open(kMega, kMega);
  EXPECT_EQ(files_in(folder_.path("shm")), 1U) << "only the new one";
  EXPECT_EQ(files_in(folder_.path("cache")), 1U);
  // One that might have come back, and did not for ten minutes.
  BlobFolderOptions lasting = options(kMega, kMega);
  lasting.memory = folder_.path("shm/third");
  lasting.disk = folder_.path("cache/third");
  lasting.lasting = true;
  make_and_die(lasting, content_of(1, 1000));
  const std::string lock = lasting.memory + "/lock";
  std::filesystem::last_write_time(lock, std::filesystem::last_write_time(lock) - seconds(700));
  remove_dead_folders(folder_.path("shm"));
  EXPECT_EQ(files_in(folder_.path("shm")), 1U);
  EXPECT_TRUE(std::filesystem::exists(memory_)) << "its owner lives";
}

TEST_F(BlobFolderLifeTest, ALastingOneStaysAsLongAsSomebodyWorksForIt) {
  BlobFolderOptions its_options = options(kMega, kMega);
  its_options.lasting = true;
  make_and_die(its_options, content_of(1, 1000));
  const std::string lock = memory_ + "/lock";
  std::filesystem::last_write_time(lock, std::filesystem::last_write_time(lock) - seconds(700));
  {
    const OwnerMark worker(memory_, "worker");
    remove_dead_folders(folder_.path("shm"));
    EXPECT_TRUE(is_in_memory(1));
  }
  remove_dead_folders(folder_.path("shm"));
  EXPECT_FALSE(std::filesystem::exists(memory_));
}

TEST_F(BlobFolderLifeTest, ALastingOneWithNothingInItIsNotMissed) {
  BlobFolderOptions its_options = options(kMega, kMega);
  its_options.lasting = true;
  make_and_die(its_options, content_of(1, 1000));
  remove_dead_folders(folder_.path("cache"));
  EXPECT_FALSE(std::filesystem::exists(disk_)) << "its blob was in memory";
  std::filesystem::remove(memory_ + "/" + to_hex(id_of(1)));
  remove_dead_folders(folder_.path("shm"));
  EXPECT_TRUE(std::filesystem::exists(memory_)) << "somebody was writing";
  for (const auto& entry : std::filesystem::directory_iterator(memory_ + "/incoming")) {
    std::filesystem::remove(entry.path());
  }
  remove_dead_folders(folder_.path("shm"));
  EXPECT_FALSE(std::filesystem::exists(memory_));
}

TEST_F(BlobFolderLifeTest, AGroupMayEnterAndWriteWhereItIsMeantTo) {
  BlobFolderOptions its_options = options(kMega, kMega);
  its_options.group = true;
  blobs_ = std::make_unique<BlobFolder>(its_options);
  const auto mode_of = [](const std::string& path) {
    struct stat status {};
    EXPECT_EQ(stat(path.c_str(), &status), 0) << path;
    return status.st_mode & 07777U;
  };
  EXPECT_EQ(mode_of(memory_), 0750U);
  EXPECT_EQ(mode_of(memory_ + "/incoming"), 01730U) << "names there have session ids";
  EXPECT_EQ(mode_of(memory_ + "/token"), 0444U);
  EXPECT_EQ(mode_of(folder_.path("shm")), 0750U);
  ASSERT_EQ(put(1, 100), "");
  EXPECT_EQ(mode_of(blobs_->path(id_of(1))), 0444U) << "whatever group its maker has";
}

}  // namespace
}  // namespace muster
