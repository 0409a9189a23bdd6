// Which jobs are looked at again when a worker has more room.
#include "broker/books/run_queue.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <set>
#include <vector>

#include "broker/books/job_table.hpp"

namespace muster {
namespace {

class RunQueueTest : public testing::Test {
 protected:
  // A job that is ready, at this place in the order.
  JobRecord& add(double order, SessionRecord& session) {
    const JobKey key{jobs_.size() + 1};
    jobs_.push_back(std::make_unique<JobRecord>(session, JobId{1}, key));
    jobs_.back()->virtual_time = order;
    queue_.join(*jobs_.back());
    return *jobs_.back();
  }
  JobRecord& add(double order) { return add(order, session_); }
  void park_all(WaitGroup& group, const std::vector<std::uint32_t>& classes = {7}) {
    while (!queue_.empty()) {
      JobRecord& job = queue_.first();
      queue_.park(job, group, classes, 1);
    }
  }
  std::vector<double> ready() const {
    std::vector<double> all;
    queue_.any_of([&](const JobRecord& job) {
      all.push_back(job.run_time);
      return false;
    });
    return all;
  }

  static SessionRecord session_of(UserRecord& user) {
    SessionRecord session;
    session.user = &user;
    return session;
  }

  UserTable users_;
  SessionRecord session_ = session_of(users_.join({}));
  std::vector<std::unique_ptr<JobRecord>> jobs_;
  RunQueue queue_;
};

TEST_F(RunQueueTest, ThoseInFrontAreLookedAtAgain) {
  WaitGroup group;
  for (int i = 0; i < 100; ++i) add(100 - i);
  park_all(group);
  queue_.wake(8, 1);
  EXPECT_TRUE(queue_.empty());
  for (int turn = 0; turn < 3; ++turn) {
    queue_.wake(7, 1);
    EXPECT_EQ(ready().size(), 16U);
    EXPECT_EQ(ready().front(), 1.0);
    park_all(group);
  }
  EXPECT_EQ(queue_.waiting(), 100U);
}

TEST_F(RunQueueTest, WhereJobsDifferAllHaveTheirTurn) {
  WaitGroup group;
  group.differs = true;
  std::set<double> seen;
  for (int i = 0; i < 100; ++i) add(i);
  park_all(group);
  for (int turn = 0; turn < 7; ++turn) {
    queue_.wake(7, 1);
    for (const double order : ready()) seen.insert(order);
    park_all(group);
  }
  EXPECT_EQ(seen.size(), 100U);
}

TEST_F(RunQueueTest, GroupsOfAClassHaveTheirTurns) {
  std::vector<WaitGroup> groups(200);
  for (WaitGroup& group : groups) {
    add(static_cast<double>(&group - groups.data()));
    park_all(group);
  }
  std::set<double> seen;
  for (int turn = 0; turn < 4; ++turn) {
    queue_.wake(7, 1);
    EXPECT_LE(ready().size(), 64U);
    while (!queue_.empty()) {
      JobRecord& job = queue_.first();
      seen.insert(job.run_time);
      queue_.park(job, groups[static_cast<std::size_t>(job.run_time)], {7}, 1);
    }
  }
  EXPECT_EQ(seen.size(), 200U);
}

TEST_F(RunQueueTest, EachUserHasJobsLookedAt) {
  WaitGroup group;
  SessionRecord other =
      session_of(users_.join({.name = "member", .id = 7, .is_member = true, .may_work = false}));
  for (int i = 0; i < 100; ++i) add(i);
  add(1000, other);
  park_all(group);
  queue_.wake(7, 1);
  EXPECT_EQ(ready().size(), 17U);
  EXPECT_EQ(queue_.size(), 101U);
  const std::vector<double> looked = ready();
  EXPECT_EQ(std::count(looked.begin(), looked.end(), 1000.0), 1);
}

TEST_F(RunQueueTest, AGroupThatWasEmptyIsWokenAgain) {
  WaitGroup group;
  JobRecord& job = add(1);
  park_all(group, {7, 8});
  queue_.unpark(job);
  queue_.wake(7, 1);  // nobody waits, so the class forgets the group
  park_all(group, {7, 8});
  queue_.wake(7, 1);
  EXPECT_EQ(ready().size(), 1U);
  park_all(group, {7, 8});
  queue_.erase(job);
  EXPECT_EQ(queue_.waiting(), 0U);
  queue_.remove(group);
  queue_.wake(7, 1);
  queue_.wake(8, 1);
  EXPECT_TRUE(queue_.empty());
}

TEST_F(RunQueueTest, GroupsThatNeedMoreThanIsFreeAreNotLookedAt) {
  WaitGroup ordinary;
  WaitGroup narrow;
  WaitGroup wide;
  narrow.need = 2;
  wide.need = 4;
  double order = 0;
  for (WaitGroup* group : {&ordinary, &narrow, &wide}) {
    add(++order);
    park_all(*group);
  }
  queue_.wake(7, 0);
  EXPECT_EQ(ready(), std::vector<double>({1}));
  queue_.wake(7, 3);
  EXPECT_EQ(ready(), std::vector<double>({1, 2}));
  queue_.set_need(wide, 3);  // a worker has come where its tasks are narrower
  queue_.wake(7, 3);
  EXPECT_EQ(ready(), std::vector<double>({1, 2, 3}));
}

TEST_F(RunQueueTest, ManyGroupsHaveTheirTurnWhateverTheyNeed) {
  constexpr std::size_t kMany = 200;
  std::vector<WaitGroup> groups(kMany);
  for (std::size_t i = 0; i < kMany; ++i) {
    groups[i].need = 1 + static_cast<std::uint32_t>(i % 3);
    add(static_cast<double>(i));
    park_all(groups[i]);
  }
  for (int turn = 0; turn < 4; ++turn) queue_.wake(7, 3);
  EXPECT_EQ(ready().size(), kMany);
}

}  // namespace
}  // namespace muster
