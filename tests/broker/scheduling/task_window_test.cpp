// The window of a job's tasks, compared with a plain set of sequences while it moves on: past whole
// chunks, over gaps of every length, and until what it has let go of is many times what it holds.
#include "broker/books/task_window.hpp"

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <iterator>
#include <random>
#include <set>

namespace muster {
namespace {

class TaskWindowTest : public ::testing::Test {
 protected:
  void append(std::uint64_t count) {
    for (; count > 0; --count) {
      const std::uint64_t sequence = window_.end();
      window_.append(sequence).attempts_made = stamp(sequence);
      tasks_.insert(sequence);
    }
  }
  void skip(std::uint64_t count) {
    if (!window_.empty()) window_.skip_to(window_.end() + count);
  }
  // Those before `sequence` are over.
  void pop_to(std::uint64_t sequence) {
    while (!window_.empty() && window_.base() < sequence) window_.pop_front();
    tasks_.erase(tasks_.begin(), tasks_.lower_bound(sequence));
    if (!tasks_.empty()) {
      EXPECT_LE(window_.base(), *tasks_.begin());
    }
  }
  void expect_that_each_is_found() {
    ASSERT_GE(window_.end(), window_.base());
    EXPECT_EQ(window_.find(window_.base() - 1), nullptr);
    EXPECT_EQ(window_.find(window_.end()), nullptr);
    std::set<std::uint64_t> found;
    for (std::uint64_t s = window_.next(window_.base()); s < window_.end();
         s = window_.next(s + 1)) {
      const TaskRecord* task = window_.find(s);
      ASSERT_NE(task, nullptr) << s;
      if (task->state == TaskState::acknowledged) continue;
      ASSERT_EQ(task->attempts_made, stamp(s)) << s;
      found.insert(s);
    }
    ASSERT_EQ(found, tasks_);
  }
  static std::uint32_t stamp(std::uint64_t sequence) {
    return static_cast<std::uint32_t>(sequence + 1);
  }

  TaskWindow window_;
  std::set<std::uint64_t> tasks_;
};

TEST_F(TaskWindowTest, TasksAreFoundAfterManyOlderOnesAreGone) {
  for (int i = 0; i < 500; ++i) {
    append(100);
    pop_to(window_.end() - 50);
    ASSERT_NO_FATAL_FAILURE(expect_that_each_is_found());
  }
  EXPECT_LE(window_.records(), 100 + 2 * TaskWindow::kChunkRecords) << "memory is let go of";
}

TEST_F(TaskWindowTest, TasksAreFoundBetweenGapsOfEveryLength) {
  constexpr std::uint64_t kChunk = TaskWindow::kChunkRecords;
  constexpr std::uint64_t kGaps[] = {1, 2, kChunk - 1, kChunk, kChunk + 1, 10 * kChunk, 1 << 20};
  std::mt19937_64 generator(1);
  const auto random = [&](std::uint64_t below) { return generator() % below; };
  for (int i = 0; i < 2000; ++i) {
    append(1 + random(2 * kChunk));
    if (random(2) == 0) skip(kGaps[random(std::size(kGaps))]);
    // Mostly a short window; now and then nothing is over for long, and sometimes all is.
    if (i % 200 >= 20 && tasks_.size() > kChunk) {
      pop_to(*std::next(tasks_.begin(), static_cast<std::ptrdiff_t>(random(tasks_.size()))));
    }
    if (random(200) == 0) pop_to(window_.end());
    ASSERT_NO_FATAL_FAILURE(expect_that_each_is_found()) << i;
  }
}

}  // namespace
}  // namespace muster
