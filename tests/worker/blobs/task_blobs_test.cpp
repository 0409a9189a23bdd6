// Blobs by name and blobs of results, in real folders.
#include "worker/blobs/task_blobs.hpp"

#include <gtest/gtest.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <iterator>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "common/blobs/user_file.hpp"
#include "tests/worker/blobs/blob_rig.hpp"
#include "worker/blobs/blob_from_file.hpp"
#include "worker/system/clock.hpp"

namespace muster {
namespace {

std::string text_of(const Blob& blob) { return std::string(blob.bytes().text()); }

class Missing final : public detail::BlobFile {
 public:
  Missing() : BlobFile(1, 2, 3) {}
  Opened open() const override { throw BlobError("it is gone"); }
};

class TaskBlobsTest : public ::testing::Test {
 protected:
  Blob open_one(const BlobName& name) {
    return blobs.open(BlobRig::payload({name}), steady_now()).at(0);
  }
  Blob make(const std::string& content) const {
    const std::span<const std::byte> part = std::as_bytes(std::span(content));
    return blobs.make({&part, 1});
  }
  std::string error_of(const BlobName& name) {
    try {
      open_one(name);
    } catch (const BlobError& error) {
      EXPECT_EQ(blob_failure(error).kind, "blob_lost");
      return error.what();
    }
    ADD_FAILURE() << "no error";
    return "";
  }

  BlobRig rig;
  TaskBlobs blobs{rig.home()};
};

TEST_F(TaskBlobsTest, AreFoundInMemoryAndOnDisk) {
  const BlobName memory = rig.put("in memory");
  const BlobName disk = rig.put("on disk", "disk");
  const std::vector<Blob> both =
      blobs.open(BlobRig::payload({disk, memory, disk}, Bytes::copy("body")), steady_now());
  ASSERT_EQ(both.size(), 3U);
  EXPECT_EQ(text_of(both[0]), "on disk");
  EXPECT_EQ(text_of(both[1]), "in memory");
  EXPECT_EQ(text_of(both[2]), "on disk");
}

TEST_F(TaskBlobsTest, StayReadableWhenTheyMoveOrGo) {
  const BlobName name = rig.put("moves");
  const Blob blob = open_one(name);
  std::filesystem::rename(rig.path(name), rig.path(name, "disk"));
  EXPECT_EQ(text_of(blob), "moves");
  EXPECT_EQ(*reinterpret_cast<const char*>(blob.copy_on_write().get()), 'm');
  std::filesystem::remove(rig.path(name, "disk"));
  EXPECT_EQ(text_of(blob), "moves");
}

TEST_F(TaskBlobsTest, MoveFromMemoryToDiskUnseenByReaders) {
  const BlobName name = rig.put("back and forth");
  const std::string memory = rig.path(name);
  const std::string disk = rig.path(name, "disk");
  const auto move = [](const std::string& from, const std::string& to) {
    std::filesystem::copy_file(from, to + ".new");
    std::filesystem::rename(to + ".new", to);
    std::filesystem::remove(from);
  };
  std::atomic<bool> stop{false};
  std::thread mover([&] {
    while (!stop) {
      move(memory, disk);
      move(disk, memory);
    }
  });
  try {
    for (int i = 0; i < 2000 && !HasFailure(); ++i) {
      TaskBlobs fresh(rig.home());
      EXPECT_EQ(text_of(fresh.open(BlobRig::payload({name}), steady_now()).at(0)),
                "back and forth");
    }
  } catch (const BlobError& error) {
    ADD_FAILURE() << error.what();
  }
  stop = true;
  mover.join();
}

TEST_F(TaskBlobsTest, SayWhatIsMissing) {
  const BlobName name{{7, 9}, 100};
  const std::string text = error_of(name);
  EXPECT_NE(text.find(to_hex(name.id)), std::string::npos) << text;
  EXPECT_NE(text.find("100 bytes"), std::string::npos) << text;
  EXPECT_NE(text.find(rig.folder.path("")), std::string::npos) << text;
}

TEST_F(TaskBlobsTest, OfAnotherSizeAreNotTouched) {
  BlobName name = rig.put("short");
  name.size_bytes = 5000;
  EXPECT_NE(error_of(name).find("5 bytes"), std::string::npos);
}

TEST_F(TaskBlobsTest, NeedAFolder) {
  TaskBlobs none{BlobHome{}};
  EXPECT_FALSE(none.available());
  EXPECT_FALSE(none.shares_files());
  EXPECT_TRUE(none.open({Bytes::copy("inline"), 0}, steady_now()).empty());
  EXPECT_THROW(none.open(BlobRig::payload({rig.put("x")}), steady_now()), BlobError);
  const std::string large(limits::kMaxBodyBytes + 1, 'x');
  EXPECT_EQ(none.payload_of(Bytes::copy(large), {}).bytes.text(), large) << "as before blobs";
  const Payload whole = blobs.payload_of(Bytes::copy(large), {}, true);
  EXPECT_EQ(whole.blobs, 0U) << "whoever wants it cannot read blobs";
  EXPECT_EQ(whole.bytes.text(), large);
}

TEST_F(TaskBlobsTest, MayBePartsOfFilesOfTheUsers) {
  const std::string path = rig.folder.path("data with\nstrange name");
  std::ofstream(path) << std::string(5'000, '.') + "content" + std::string(100, '.');
  std::string error;
  const auto file = look_at_user_file(path, 5'000, 7, error);
  ASSERT_TRUE(file) << error;
  const BlobName name{{3, 4}, 7};
  std::ofstream(rig.path(name, "disk") + ".file") << encode_user_file(*file);
  EXPECT_EQ(text_of(open_one(name)), "content");
  EXPECT_EQ(decode_user_file(encode_user_file(*file)), *file);

  std::ofstream(path, std::ios::app) << "more";
  blobs.tick(steady_now() + TaskBlobs::kKeptMaps);
  EXPECT_NE(error_of(name).find("changed since the task was submitted"), std::string::npos);
  std::filesystem::remove(path);
  EXPECT_NE(error_of(name).find("cannot open the file"), std::string::npos);
}

TEST_F(TaskBlobsTest, OfUsersFilesAreCheckedWhenTheyAreNamed) {
  std::string error;
  EXPECT_FALSE(look_at_user_file("relative", 0, 1, error));
  EXPECT_FALSE(look_at_user_file("/dev/zero", 0, 1, error));
  EXPECT_NE(error.find("not an ordinary file"), std::string::npos);
  EXPECT_FALSE(look_at_user_file(rig.folder.path("missing"), 0, 1, error));
  std::ofstream(rig.folder.path("four")) << "1234";
  EXPECT_FALSE(look_at_user_file(rig.folder.path("four"), 3, 2, error));
  EXPECT_NE(error.find("has 4 bytes"), std::string::npos) << error;
  EXPECT_FALSE(look_at_user_file(rig.folder.path("four"), ~std::uint64_t{0}, 2, error));
  for (const char* damaged : {"", "1 2 3 4 5 6", "1 2 3 4 5 6\nrelative", "1 2 3 4 x 6\n/file"}) {
    EXPECT_FALSE(decode_user_file(damaged)) << damaged;
  }
}

TEST_F(TaskBlobsTest, KeepTheirMapsForTheNextTask) {
  const BlobName name = rig.put("used twice");
  const Time now = steady_now();
  const std::byte* at = blobs.open(BlobRig::payload({name}), now).at(0).bytes().data();
  std::filesystem::remove(rig.path(name));
  EXPECT_EQ(blobs.next_deadline(), now + TaskBlobs::kKeptMaps);
  EXPECT_EQ(open_one(name).bytes().data(), at);
  blobs.tick(steady_now() + TaskBlobs::kKeptMaps);
  EXPECT_EQ(blobs.next_deadline(), kNever);
  EXPECT_THROW(open_one(name), BlobError) << "kept for ever";
}

TEST_F(TaskBlobsTest, OfAnotherTaskEndOldMaps) {
  const BlobName first = rig.put("first");
  open_one(first);
  open_one(rig.put("second"));
  std::filesystem::remove(rig.path(first));
  EXPECT_THROW(open_one(first), BlobError);
}

TEST_F(TaskBlobsTest, OfResultsAreFilesOfTheWorker) {
  std::vector<std::string> texts;
  std::vector<std::span<const std::byte>> parts;
  for (int i = 0; i < 200; ++i) {
    texts.push_back(i % 3 == 0 ? "" : std::string(static_cast<std::size_t>(i) * 100, 'a' + i % 26));
  }
  std::string whole;
  for (const std::string& text : texts) {
    parts.push_back(std::as_bytes(std::span(text)));
    whole += text;
  }
  const Blob blob = blobs.make(parts);
  EXPECT_EQ(text_of(blob), whole);
  const Payload payload = blobs.payload_of(Bytes::copy("body"), {blob});
  EXPECT_EQ(payload.blobs, 1U);
  EXPECT_EQ(body_of(payload).bytes.text(), "body");
  EXPECT_EQ(rig.take(payload), std::vector<std::string>{whole});
  EXPECT_EQ(text_of(blob), whole) << "after it was taken";
}

TEST_F(TaskBlobsTest, ThatNobodyNamedAreRemoved) {
  {
    const Blob dropped = make("never named");
    const Blob named = make("named");
    EXPECT_TRUE(is_one_blob(blobs.payload_of({}, {named})));
    EXPECT_EQ(text_of(dropped), "never named");
  }
  EXPECT_EQ(rig.incoming().size(), 1U);
}

TEST_F(TaskBlobsTest, AreManyWithFewOpenFiles) {
  const auto open_files = [] {
    const std::filesystem::directory_iterator files("/proc/self/fd");
    return std::distance(begin(files), end(files));
  };
  const auto before = open_files();
  std::vector<Blob> many;
  for (int i = 0; i < 1000; ++i) many.push_back(make(std::to_string(i)));
  EXPECT_LT(open_files() - before, 200);
  EXPECT_EQ(text_of(many[0]) + text_of(many[999]), "0999");
  const Payload payload = blobs.payload_of({}, {many[999], many[0]});
  many.clear();
  EXPECT_EQ(open_files(), before);
  EXPECT_EQ(rig.incoming().size(), 2U);
  EXPECT_EQ(rig.take(payload), (std::vector<std::string>{"999", "0"}));
}

TEST_F(TaskBlobsTest, OfAResultThatFailedAreFreeForAnother) {
  const Blob own = make("own");
  const Blob gone(std::make_shared<Missing>());
  EXPECT_THROW(blobs.payload_of({}, {own, gone}), BlobError);
  EXPECT_EQ(rig.take(blobs.payload_of({}, {own})), std::vector<std::string>{"own"});
}

TEST_F(TaskBlobsTest, OfResultsThatNobodyGetsAreRemoved) {
  const Payload payload = blobs.payload_of({}, {make("one"), make("two")});
  EXPECT_EQ(rig.incoming().size(), 2U);
  discard_result(rig.home(), payload);
  EXPECT_TRUE(rig.incoming().empty());
}

TEST_F(TaskBlobsTest, HaveDifferentNames) {
  const Blob first = make("same");
  const Blob second = make("same");
  EXPECT_FALSE(first.is_same_as(second));
}

TEST_F(TaskBlobsTest, OfSomebodyElseGoAsCopies) {
  const BlobName name = rig.put("an argument");
  const Blob argument = open_one(name);
  const Blob own = make("own");
  const Payload payload = blobs.payload_of(Bytes::copy("body"), {argument, own, own});
  EXPECT_NE(blob_at(payload, 0), name);
  EXPECT_NE(blob_at(payload, 1), blob_at(payload, 2));
  EXPECT_EQ(rig.take(payload), (std::vector<std::string>{"an argument", "own", "own"}));
  const Payload again = blobs.payload_of({}, {own});
  EXPECT_NE(blob_at(again, 0), blob_at(payload, 1)) << "another outcome has that one";
}

TEST_F(TaskBlobsTest, CarryLargeBodies) {
  const std::string large(limits::kMaxBodyBytes + 1, 'x');
  const Payload payload = blobs.payload_of(Bytes::copy(large), {});
  EXPECT_TRUE(is_one_blob(payload));
  EXPECT_EQ(rig.take(payload), std::vector<std::string>{large});
  const std::string small(limits::kMaxBodyBytes, 'x');
  EXPECT_EQ(blobs.payload_of(Bytes::copy(small), {}).blobs, 0U);

  const auto opened = blobs.unpack(payload, "payload", steady_now());
  const auto* open_payload = std::get_if<OpenPayload>(&opened);
  ASSERT_NE(open_payload, nullptr);
  EXPECT_EQ(open_payload->body.text(), large);
  EXPECT_TRUE(open_payload->blobs.empty());
}

TEST_F(TaskBlobsTest, ReportPackedBodiesThatAreDamaged) {
  const Payload payload{Bytes::copy("no lz4 block at all"), 5000};
  const auto opened = blobs.unpack(payload, "payload", steady_now());
  ASSERT_TRUE(std::holds_alternative<Failure>(opened));
  EXPECT_EQ(std::get<Failure>(opened).message, "the packed payload is damaged");
}

TEST_F(TaskBlobsTest, AreNotRemovedByTheChildOfAFork) {
  Blob blob = make("the parent's");
  const pid_t child = ::fork();
  if (child == 0) {
    blob = Blob();
    ::_exit(0);
  }
  int status = 0;
  EXPECT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(rig.take(blobs.payload_of({}, {blob})), std::vector<std::string>{"the parent's"});
}

// File systems of a few megabytes, in the place of the folders.
class SmallFolders : public TaskBlobsTest {
 protected:
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "only root can mount";
    for (const char* place : {"memory", "disk"}) {
      const std::string path = rig.folder.path(place);
      const char* size = std::string(place) == "memory" ? "size=4m,mode=700" : "size=32m,mode=700";
      if (::mount("small", path.c_str(), "tmpfs", 0, size) != 0) {
        GTEST_SKIP() << "cannot mount here";
      }
      mounted_.push_back(path);
      std::filesystem::create_directory(path + "/incoming");
    }
  }
  void TearDown() override {
    for (const std::string& path : mounted_) ::umount2(path.c_str(), MNT_DETACH);
  }

 private:
  std::vector<std::string> mounted_;
};

TEST_F(SmallFolders, LargeResultsGoToDisk) {
  const Blob small = make(std::string(1 << 20, 's'));
  const Blob large = make(std::string(8 << 20, 'l'));
  const Payload payload = blobs.payload_of({}, {small, large});
  EXPECT_EQ(rig.incoming("memory").size(), 1U);
  EXPECT_EQ(rig.incoming("disk").size(), 1U);
  EXPECT_EQ(large.bytes().size(), std::size_t{8} << 20);
}

TEST_F(SmallFolders, NoRoomIsAnErrorThatLeavesNothingBehind) {
  try {
    make(std::string(64 << 20, 'x'));
    FAIL() << "no error";
  } catch (const BlobError& error) {
    EXPECT_EQ(blob_failure(error).kind, "no_room");
    EXPECT_NE(std::string(error.what()).find("67108864 bytes"), std::string::npos) << error.what();
  }
  EXPECT_TRUE(rig.incoming("memory").empty());
  EXPECT_TRUE(rig.incoming("disk").empty());
}

TEST_F(SmallFolders, FilesGoWhereThereIsRoom) {
  const std::string path = rig.folder.path("output");
  std::ofstream(path) << std::string(8 << 20, 'o');
  BlobFromFile file(blobs, path);
  EXPECT_EQ(file.size_bytes(), std::uint64_t{8} << 20);
  int steps = 1;
  Blob blob = file.step(1 << 20);
  for (; !blob; ++steps) blob = file.step(1 << 20);
  EXPECT_EQ(steps, 8) << "a megabyte at a time";
  EXPECT_EQ(blob.bytes().size(), std::size_t{8} << 20);
  const Payload payload = blobs.payload_of({}, {blob});
  EXPECT_EQ(rig.incoming("disk").size(), 1U);
  EXPECT_TRUE(std::filesystem::exists(path)) << "copied, not moved";
}

TEST_F(TaskBlobsTest, FilesOfTheSameFileSystemAreMoved) {
  const std::string path = rig.folder.path("output");
  std::ofstream(path) << "what a command wrote";
  const Blob blob = BlobFromFile(blobs, path).step(1);
  ASSERT_TRUE(blob);
  EXPECT_FALSE(std::filesystem::exists(path));
  EXPECT_EQ(rig.take(blobs.payload_of({}, {blob})),
            std::vector<std::string>{"what a command wrote"});
}

TEST_F(TaskBlobsTest, FilesThatOthersHaveTooAreCopied) {
  const std::string original = rig.folder.path("original");
  std::ofstream(original) << "shared";
  const std::string link = rig.folder.path("link");
  const std::string other_name = rig.folder.path("other");
  std::filesystem::create_symlink(original, link);
  std::filesystem::create_hard_link(original, other_name);
  for (const std::string& path : {link, other_name}) {
    const Blob blob = BlobFromFile(blobs, path).step(100);
    std::ofstream(original, std::ios::app) << "!";
    EXPECT_EQ(text_of(blob).substr(0, 6), "shared");
    EXPECT_NE(text_of(blob), BlobRig::read(original));
  }
  EXPECT_THROW(BlobFromFile(blobs, rig.folder.path("missing")), BlobError);
  EXPECT_THROW(BlobFromFile(blobs, rig.folder.path("")), BlobError);
}

}  // namespace
}  // namespace muster
