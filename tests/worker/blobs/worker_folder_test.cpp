// Stories about $MUSTER_BLOBS: whose folders tasks find there, and what stays of dead workers.
#include "worker/blobs/worker_folder.hpp"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "tests/support/child.hpp"

namespace muster {
namespace {

namespace fs = std::filesystem;

constexpr WorkerId kWorker{3, 4};
constexpr BlobId kBlob{7, 1};

void write(const std::string& path, const std::string& text) {
  fs::create_directories(fs::path(path).parent_path());
  std::ofstream(path) << text;
}

std::string read(const std::string& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

class Folder : public ::testing::Test {
 protected:
  Folder() {
    for (const std::string& folder : {broker(0), broker(1)}) write(folder + "/incoming/x", "");
    write(broker(0) + "/token", "the token");
  }
  std::string root() const { return folder_.path("memory"); }
  std::string broker(int place) const { return folder_.path(place == 0 ? "bm" : "bd"); }
  std::vector<std::string> brokers() const { return {broker(0), broker(1)}; }
  std::unique_ptr<WorkerFolder> make(const WorkerId& worker = kWorker) const {
    return std::make_unique<WorkerFolder>(
        WorkerFolderOptions{worker, root(), folder_.path("disk")});
  }
  static std::string incoming(const WorkerId& worker = kWorker) {
    return "/incoming/" + to_hex(kBlob) + "." + to_hex(worker);
  }

  testing::TemporaryFolder folder_;
};

TEST_F(Folder, LeadsToTheBrokersFoldersAndGoesWithItsWorker) {
  std::string path;
  {
    const auto folder = make();
    path = folder->path();
    EXPECT_EQ(path, root() + "/worker-" + to_hex(kWorker));
    EXPECT_TRUE(folder->is_in_memory());
    struct stat status {};
    ASSERT_EQ(::stat(path.c_str(), &status), 0);
    EXPECT_EQ(status.st_mode & 0777U, 0700U);
    EXPECT_FALSE(fs::exists(path + "/shares"));
    folder->use(brokers(), true);
    EXPECT_TRUE(fs::exists(path + "/shares"));
    write(broker(0) + "/" + to_hex(kBlob), "in memory");
    write(broker(1) + "/0123", "on disk");
    EXPECT_EQ(read(path + "/memory/" + to_hex(kBlob)), "in memory");
    EXPECT_EQ(read(path + "/disk/0123"), "on disk");
  }
  EXPECT_FALSE(fs::exists(path));
  EXPECT_TRUE(fs::exists(broker(0) + "/" + to_hex(kBlob))) << "it is the broker's";
}

TEST_F(Folder, OnlyTheRightTokenMakesTheBrokersFoldersOurs) {
  EXPECT_TRUE(WorkerFolder::sees(brokers(), "the token"));
  EXPECT_FALSE(WorkerFolder::sees(brokers(), "the tokem"));
  EXPECT_FALSE(WorkerFolder::sees(brokers(), "the toke"));
  EXPECT_FALSE(WorkerFolder::sees(brokers(), ""));
  EXPECT_FALSE(WorkerFolder::sees({}, "the token"));
  EXPECT_FALSE(WorkerFolder::sees({folder_.path("elsewhere"), broker(1)}, "the token"));
  fs::remove_all(broker(1) + "/incoming");
  EXPECT_FALSE(WorkerFolder::sees(brokers(), "the token")) << "results would find no way in";
}

TEST_F(Folder, WhatTasksWroteComesAlongToTheNextFolders) {
  const auto folder = make();
  folder->use(brokers(), true);
  write(folder->path() + "/memory" + incoming(), "a result");
  write(folder->path() + "/memory" + incoming({9, 9}), "another worker's");
  for (const std::string& own : {folder->memory_folder(), folder->disk_folder()}) {
    fs::create_directories(own + "/incoming");
  }
  folder->use({folder->memory_folder(), folder->disk_folder()}, false);
  EXPECT_FALSE(fs::exists(folder->path() + "/shares"));
  EXPECT_EQ(read(folder->memory_folder() + incoming()), "a result");
  EXPECT_TRUE(fs::exists(broker(0) + incoming({9, 9})));
  folder->use(brokers(), true);
  EXPECT_EQ(read(broker(0) + incoming()), "a result");
  folder->discard(kBlob);
  EXPECT_FALSE(fs::exists(broker(0) + incoming()));
}

TEST_F(Folder, TheBrokersFoldersSayThatThisWorkerLives) {
  const std::string mark = broker(0) + "/owners/" + to_hex(kWorker);
  for (const std::string& used : brokers()) fs::create_directory(used + "/owners");
  const auto folder = make();
  folder->use(brokers(), true);
  EXPECT_TRUE(has_living_owner(broker(0)));
  EXPECT_TRUE(has_living_owner(broker(1)));
  fs::remove(mark);  // the broker made its folders anew
  folder->mark();
  EXPECT_TRUE(has_living_owner(broker(0)));
  folder->mark();
  EXPECT_TRUE(has_living_owner(broker(0)));
  folder->use({folder->memory_folder(), folder->disk_folder()}, false);
  EXPECT_FALSE(fs::exists(mark));
}

TEST_F(Folder, AResultThatTheOwnCacheTookGoesToABrokerWhoseFilesAreSeen) {
  const auto folder = make();
  write(folder->disk_folder() + "/" + to_hex(kBlob), "a result");
  folder->use(brokers(), true);
  folder->offer(kBlob, {folder->memory_folder(), folder->disk_folder()});
  EXPECT_EQ(read(broker(1) + incoming()), "a result");
}

TEST_F(Folder, DeadWorkersLeaveNothingAndLivingOnesStay) {
  const auto living = make();
  write(root() + "/worker-dead/lock", read(living->path() + "/lock"));
  write(root() + "/worker-dead/own/0123", "a blob");
  write(folder_.path("disk/worker-dead/lock"), read(living->path() + "/lock"));
  const auto next = make({8, 8});
  EXPECT_FALSE(fs::exists(root() + "/worker-dead"));
  EXPECT_FALSE(fs::exists(folder_.path("disk/worker-dead")));
  EXPECT_TRUE(fs::exists(living->path()));
}

TEST_F(Folder, WithoutMemoryItIsOnDisk) {
  write(root(), "somebody's file");
  const auto folder = make();
  EXPECT_FALSE(folder->is_in_memory());
  EXPECT_EQ(folder->path().rfind(folder_.path("disk") + "/", 0), 0U);
  write(root() + "-disk", "");
  EXPECT_THROW(WorkerFolder(WorkerFolderOptions{{5, 5}, root(), root() + "-disk"}),
               std::runtime_error);
}

TEST_F(Folder, InMemoryThatSomebodyElseMayHaveMadeIsRefused) {
  const std::string shared = folder_.path("shm");  // as /dev/shm
  const std::string planted = shared + "/muster-0";
  const auto make_there = [&] {
    return WorkerFolder(WorkerFolderOptions{kWorker, planted, folder_.path("disk")});
  };
  fs::create_directory(shared);
  ASSERT_EQ(::chmod(shared.c_str(), 01777), 0);
  fs::create_directory(folder_.path("elsewhere"));
  fs::create_directory_symlink(folder_.path("elsewhere"), planted);
  {
    const WorkerFolder folder = make_there();
    EXPECT_FALSE(folder.is_in_memory());
    EXPECT_NE(folder.trouble().find("a symbolic link"), std::string::npos) << folder.trouble();
    EXPECT_TRUE(fs::is_empty(folder_.path("elsewhere")));
  }
  fs::remove(planted);
  fs::create_directory(planted);
  for (const mode_t mode : {01777U, 0770U, 0722U}) {
    ASSERT_EQ(::chmod(planted.c_str(), mode), 0);
    const WorkerFolder folder = make_there();
    EXPECT_FALSE(folder.is_in_memory()) << mode;
    EXPECT_NE(folder.trouble().find(planted), std::string::npos) << folder.trouble();
  }
  if (::geteuid() == 0) {
    ASSERT_EQ(::chmod(planted.c_str(), 0700), 0);
    ASSERT_EQ(::chown(planted.c_str(), 65534, 65534), 0);
    EXPECT_FALSE(make_there().is_in_memory());
    ASSERT_EQ(::chown(planted.c_str(), 0, 0), 0);
  }
  ASSERT_EQ(::chmod(planted.c_str(), 0700), 0);
  const WorkerFolder folder = make_there();
  EXPECT_TRUE(folder.is_in_memory());
  EXPECT_EQ(folder.trouble(), "");
}

}  // namespace
}  // namespace muster
