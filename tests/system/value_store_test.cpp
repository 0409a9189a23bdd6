// The files of stored values: they survive the broker, stay within limits, and damage is noticed.
#include "broker/stores/value_store.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "common/protocol/limits.hpp"

namespace muster {
namespace {

namespace fs = std::filesystem;

// While it lives, this process opens no more files.
class NoDescriptors {
 public:
  NoDescriptors() {
    getrlimit(RLIMIT_NOFILE, &before_);
    rlimit none = before_;
    none.rlim_cur = 0;
    setrlimit(RLIMIT_NOFILE, &none);
  }
  ~NoDescriptors() { setrlimit(RLIMIT_NOFILE, &before_); }
  NoDescriptors(const NoDescriptors&) = delete;
  NoDescriptors& operator=(const NoDescriptors&) = delete;

 private:
  rlimit before_{};
};

// While it lives, permissions count for this process, also when root runs the tests.
class Unprivileged {
 public:
  Unprivileged() : was_root_(::geteuid() == 0) {
    if (was_root_ && ::seteuid(65534) != 0) ADD_FAILURE() << "cannot become nobody";
  }
  ~Unprivileged() {
    if (was_root_ && ::seteuid(0) != 0) ADD_FAILURE() << "cannot become root again";
  }
  Unprivileged(const Unprivileged&) = delete;
  Unprivileged& operator=(const Unprivileged&) = delete;

 private:
  const bool was_root_;
};

class ValueStoreTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string path = (fs::temp_directory_path() / "stores-XXXXXX").string();
    ASSERT_NE(::mkdtemp(path.data()), nullptr);
    parent_ = path;
    folder_ = path + "/spool";
    open();
  }
  void TearDown() override {
    store_.reset();
    std::error_code ignored;
    fs::remove_all(parent_, ignored);
  }
  void open(std::uint64_t limit_bytes = 1 << 20, std::size_t limit_items = 100) {
    store_.reset();
    store_ = std::make_unique<ValueStore>(StoreOptions{folder_, limit_bytes, limit_items});
  }
  std::string put(const std::string& key, const std::string& value, const std::string& text = "") {
    return store_->put({"s", key}, text, Bytes::copy(value));
  }
  std::string get(const std::string& key) {
    const auto found = store_->find({"s", key});
    return found ? std::string(found->value.text()) : "(none)";
  }
  std::vector<std::string> keys() {
    std::vector<std::string> all;
    for (const StoreEntry& entry : store_->list({"s", ""}, "")) all.push_back(entry.key);
    return all;
  }
  using Keys = std::vector<std::string>;
  fs::path file_of(const std::string& key) { return store_->find({"s", key})->file; }

  std::string parent_;
  std::string folder_;
  std::unique_ptr<ValueStore> store_;
};

TEST_F(ValueStoreTest, AValueIsFoundUntilItIsRemoved) {
  EXPECT_EQ(get("f/1"), "(none)");
  EXPECT_EQ(put("f/1", "one", "{\"time\": 1}"), "");
  EXPECT_EQ(get("f/1"), "one");
  EXPECT_EQ(store_->find({"s", "f/1"})->text, "{\"time\": 1}");
  EXPECT_EQ(put("f/1", "another"), "");
  EXPECT_EQ(get("f/1"), "another");
  EXPECT_EQ(put("empty", ""), "");
  EXPECT_EQ(get("empty"), "");
  EXPECT_FALSE(store_->find({"t", "f/1"}).has_value()) << "stores are apart";
  EXPECT_EQ(keys(), (Keys{"empty", "f/1"}));
  store_->remove({"s", "f/1"});
  EXPECT_EQ(get("f/1"), "(none)");
  put("f/2", "2");
  put("g/1", "1");
  store_->remove_all("s", "f/");
  EXPECT_EQ(keys(), (Keys{"empty", "g/1"}));
}

TEST_F(ValueStoreTest, ValuesSurviveTheBrokerAndAKill) {
  put("f/1", "one", "said");
  put("f/2", std::string(3 * kStorePieceBytes / 2, 'x'));
  std::unique_ptr<ValueStore::Upload> cut_off;
  ASSERT_EQ(store_->begin(100, cut_off), "");
  EXPECT_EQ(cut_off->append(std::as_bytes(std::span("half", 4))), "");
  // What a killed broker leaves behind, without its lock.
  const std::string copy = parent_ + "/copy";
  fs::copy(folder_, copy, fs::copy_options::recursive);
  ValueStore after({copy, 1 << 20, 100});
  EXPECT_EQ(after.items(), 2U);
  const auto found = after.find({"s", "f/1"});
  ASSERT_TRUE(found.has_value());
  EXPECT_EQ(found->value.text(), "one");
  EXPECT_EQ(found->text, "said");
  const auto large = after.find({"s", "f/2"});
  ASSERT_TRUE(large.has_value());
  EXPECT_TRUE(large->value.empty()) << "it comes in pieces";
  const auto piece = after.read({"s", "f/2"}, large->version, kStorePieceBytes, 10);
  ASSERT_TRUE(piece.has_value());
  EXPECT_EQ(piece->text(), "xxxxxxxxxx");
  EXPECT_FALSE(after.read({"s", "f/2"}, large->version + 1, 0, 10).has_value());
  EXPECT_FALSE(after.read({"s", "f/2"}, large->version, large->size_bytes - 1, 2).has_value());
  EXPECT_EQ(after.damaged(), 0U);
}

TEST_F(ValueStoreTest, AValueThatCannotBeOpenedNowIsKept) {
  put("f/1", "one");
  open();  // nothing was read yet
  {
    const NoDescriptors no_descriptors;
    EXPECT_EQ(get("f/1"), "(none)");
    EXPECT_FALSE(store_->look_at({"s", "f/1"}).has_value());
  }
  EXPECT_EQ(get("f/1"), "one");
  EXPECT_EQ(store_->damaged(), 0U);
}

TEST_F(ValueStoreTest, AStartThatCannotReadAValueKeepsIt) {
  put("f/1", "one");
  const fs::path file = file_of("f/1");
  store_.reset();
  for (const fs::path& path : {fs::path(parent_), fs::path(folder_), file.parent_path()}) {
    ASSERT_EQ(::chmod(path.c_str(), 0777), 0);
  }
  ASSERT_EQ(::chmod((folder_ + "/lock").c_str(), 0666), 0);
  ASSERT_EQ(::chmod(file.c_str(), 0), 0);
  {
    const Unprivileged unprivileged;
    open();
    EXPECT_EQ(get("f/1"), "(none)");
    EXPECT_EQ(store_->damaged(), 0U);
    EXPECT_EQ(put("f/2", "two"), "");
    store_.reset();
  }
  ASSERT_EQ(::chmod(file.c_str(), 0400), 0);
  open();
  EXPECT_EQ(get("f/1"), "one");
  EXPECT_EQ(get("f/2"), "two");
}

TEST_F(ValueStoreTest, TwoBrokersDoNotShareAFolder) {
  try {
    ValueStore second({folder_, 1 << 20, 100});
    FAIL() << "it took the folder";
  } catch (const std::runtime_error& error) {
    EXPECT_NE(std::string(error.what()).find("another broker uses this folder"), std::string::npos);
  }
}

TEST_F(ValueStoreTest, DamagedFilesAreLeftOutAndCounted) {
  put("good", "good");
  put("short", "cut in its end");
  put("turned", std::string(1000, 'a'));
  const fs::path cut = file_of("short");
  const fs::path turned = file_of("turned");
  fs::resize_file(cut, fs::file_size(cut) - 3);
  ::chmod(turned.c_str(), 0600);
  std::fstream(turned, std::ios::in | std::ios::out | std::ios::binary).seekp(500).put('b');
  std::ofstream(cut.parent_path() / "notes.txt") << "somebody else's";
  open();
  EXPECT_EQ(store_->items(), 2U) << "the end of a file says what it is";
  EXPECT_EQ(store_->damaged(), 1U);
  EXPECT_EQ(get("good"), "good");
  EXPECT_EQ(get("turned"), "(none)") << "its content is read when it is wanted";
  EXPECT_EQ(store_->damaged(), 2U);
  EXPECT_FALSE(fs::exists(turned));
  EXPECT_TRUE(fs::exists(cut.parent_path() / "notes.txt"));
}

TEST_F(ValueStoreTest, AFileThatSomebodyRemovedIsAMiss) {
  put("f", "one");
  fs::remove(file_of("f"));
  EXPECT_EQ(get("f"), "(none)");
  EXPECT_EQ(put("f", "again"), "");
  EXPECT_EQ(get("f"), "again");
}

TEST_F(ValueStoreTest, TheLeastRecentlyUsedValueMakesRoom) {
  open(3000);
  const std::string kilobyte(1000, 'x');
  for (const char* key : {"a", "b", "c"}) ASSERT_EQ(put(key, kilobyte), "");
  get("a");
  EXPECT_EQ(put("d", kilobyte), "");
  EXPECT_EQ(keys(), (Keys{"a", "c", "d"})) << "a was read after b";
  EXPECT_EQ(store_->evicted(), 1U);
  EXPECT_EQ(store_->bytes(), 3000U);
  EXPECT_NE(put("e", std::string(3001, 'x')).find("--store-limit"), std::string::npos);
  EXPECT_EQ(keys().size(), 3U) << "what can never fit costs nothing else";
  open(1000);
  EXPECT_EQ(keys(), Keys{"d"}) << "the limit holds from the start";
  open(1 << 20, 2);
  put("x", "");
  put("y", "");
  EXPECT_EQ(store_->items(), 2U);
}

TEST_F(ValueStoreTest, TrimKeepsWhatWasUsedLast) {
  for (const char* key : {"a", "b", "c"}) put(key, std::string(100, 'x'));
  store_->put({"other", "a"}, "", Bytes::borrow("stays"));
  get("a");
  StoreLimits limits;
  limits.bytes = 200;
  EXPECT_EQ(store_->trim("s", limits), 1U);
  EXPECT_EQ(keys(), (Keys{"a", "c"}));
  limits = {};
  limits.items = 1;
  EXPECT_EQ(store_->trim("s", limits), 1U);
  EXPECT_EQ(keys(), Keys{"a"});
  limits = {};
  limits.age_ms = 3'600'000;
  EXPECT_EQ(store_->trim("s", limits), 0U);
  EXPECT_TRUE(store_->look_at({"other", "a"}).has_value());
}

TEST_F(ValueStoreTest, AFileOfTheIncomingFolderIsTakenOver) {
  const std::string content(2'000'000, 'z');
  open(1 << 24);
  std::ofstream(store_->incoming() + "/mine") << content;
  EXPECT_NE(store_->adopt({"s", "k"}, "", "mine", 5), "") << "not the size that was said";
  std::ofstream(store_->incoming() + "/mine") << content;
  EXPECT_EQ(store_->adopt({"s", "k"}, "said", "mine", content.size()), "");
  const auto found = store_->find({"s", "k"});
  ASSERT_TRUE(found.has_value());
  EXPECT_EQ(found->size_bytes, content.size());
  EXPECT_EQ(found->text, "said");
  for (const char* name : {"", "..", "../lock", ".1", "none"}) {
    EXPECT_NE(store_->adopt({"s", "k2"}, "", name, 1), "") << name;
  }
  ASSERT_EQ(::symlink("/etc/hostname", (store_->incoming() + "/link").c_str()), 0);
  EXPECT_NE(store_->adopt({"s", "k2"}, "", "link", fs::file_size("/etc/hostname")), "");
  ASSERT_EQ(::mkfifo((store_->incoming() + "/fifo").c_str(), 0600), 0);
  EXPECT_NE(store_->adopt({"s", "k2"}, "", "fifo", 0), "");
}

TEST_F(ValueStoreTest, AFolderOfItsOwnEndsWithItAndAnEmptyOneGoes) {
  store_.reset();
  EXPECT_FALSE(fs::exists(folder_)) << "nothing was in it";
  ASSERT_EQ(::setenv("XDG_CACHE_HOME", parent_.c_str(), 1), 0);
  std::string folder;
  {
    ValueStore own({"", 1 << 20, 100});
    folder = own.folder();
    EXPECT_TRUE(folder.starts_with(parent_));
    own.put({"s", "k"}, "", Bytes::borrow("v"));
  }
  ::unsetenv("XDG_CACHE_HOME");
  EXPECT_FALSE(fs::exists(folder));
  EXPECT_FALSE(fs::exists(parent_ + "/muster")) << "nothing else was in it";
}

}  // namespace
}  // namespace muster
