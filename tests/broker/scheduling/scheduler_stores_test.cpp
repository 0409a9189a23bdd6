// Which stores a worker's questions reach: those that the sessions of its tasks have named, each
// with its user's values and no others.
#include <gtest/gtest.h>

#include <map>
#include <string>
#include <vector>

#include "tests/broker/scheduling/environment.hpp"

namespace muster {
namespace {

class SchedulerStoresTest : public SchedulerTest {
 protected:
  SchedulerStoresTest() {
    producer_ = add_producer(1);
    worker_ = add_worker(1, 2);
  }

  std::uint64_t ask(PeerId peer, StoreOperation operation, const std::string& store,
                    const std::string& key = "k", const std::string& text = "") {
    message::StoreRequest request;
    request.token = ++token_;
    request.claimant = 3;
    request.question.operation = operation;
    request.question.store = store;
    request.question.key = key;
    request.question.text = text;
    send(peer, request);
    for (auto& event : scheduler_->take_store_events()) {
      if (event.request) spaces_[event.request->token] = event.request->question.store;
    }
    return token_;
  }
  void name(PeerId producer, const std::string& store, const std::string& seal) {
    ask(producer, StoreOperation::contains, store, "", seal);
  }
  // Where a worker's question was looked up: "(refused)", "(waits)", or the store's inner name.
  std::string reached(std::uint64_t token, PeerId worker) {
    if (spaces_.count(token) != 0) return spaces_[token];
    for (const Message& message : workers_.at(worker).other) {
      const auto* answer = std::get_if<message::StoreAnswer>(&message);
      if (answer == nullptr || answer->token != token) continue;
      EXPECT_EQ(answer->reply.status, StoreStatus::refused);
      return "(refused)";
    }
    return "(waits)";
  }
  std::string claimed(PeerId worker, const std::string& store) {
    return reached(ask(worker, StoreOperation::claim, store), worker);
  }
  std::string of_producer(PeerId producer, const std::string& store) {
    return spaces_[ask(producer, StoreOperation::get, store)];
  }
  void run_a_task(PeerId producer, std::uint32_t job = 1) {
    submit(producer, declare(producer, job), 0, 1);
  }

  PeerId producer_{};
  PeerId worker_{};
  std::uint64_t token_ = 0;
  std::map<std::uint64_t, std::string> spaces_;
};

TEST_F(SchedulerStoresTest, AWorkerWithoutTasksReachesNoStore) {
  name(producer_, "experiment", "seal");
  for (int operation = 0; operation < static_cast<int>(StoreOperation::leave); ++operation) {
    const auto token = ask(worker_, static_cast<StoreOperation>(operation), "experiment");
    EXPECT_EQ(reached(token, worker_), "(refused)") << operation;
  }
}

TEST_F(SchedulerStoresTest, AWorkerReachesTheStoresThatItsTasksSessionsNamed) {
  name(producer_, "experiment", "seal");
  const PeerId other = add_producer(2);
  name(other, "others", "seal");
  run_a_task(producer_);
  EXPECT_EQ(claimed(worker_, "experiment"), of_producer(producer_, "experiment"));
  EXPECT_EQ(claimed(worker_, "others"), "(refused)") << "no task of that session is here";
  EXPECT_EQ(claimed(worker_, "unnamed"), "(refused)");
  EXPECT_EQ(claimed(worker_, of_producer(producer_, "experiment")), "(refused)");
  finish(worker_, 1);
  EXPECT_EQ(claimed(worker_, "experiment"), "(refused)") << "its task is over";
}

TEST_F(SchedulerStoresTest, AStoreHasTheValuesOfItsSeal) {
  name(producer_, "experiment", "seal");
  const PeerId same = add_producer(2);
  name(same, "experiment", "seal");
  const PeerId another = add_producer(3);
  name(another, "experiment", "another");
  const PeerId none = add_producer(4);
  const std::string space = of_producer(producer_, "experiment");
  EXPECT_EQ(of_producer(same, "experiment"), space);
  EXPECT_NE(of_producer(another, "experiment"), space);
  EXPECT_EQ(of_producer(none, "experiment"), "experiment");
  EXPECT_EQ(space.find("seal"), std::string::npos) << "whoever reads the name does not learn it";
}

TEST_F(SchedulerStoresTest, TwoUsersOfOneNameAreNotMixedUp) {
  name(producer_, "experiment", "seal");
  const PeerId another = add_producer(3);
  name(another, "experiment", "another");
  run_a_task(producer_);
  EXPECT_EQ(claimed(worker_, "experiment"), of_producer(producer_, "experiment"));
  run_a_task(another);
  EXPECT_EQ(claimed(worker_, "experiment"), "(refused)") << "which of the two asks?";
}

TEST_F(SchedulerStoresTest, AQuestionBeforeItsSessionIsBackWaitsForIt) {
  restart();
  const message::HeldLeases held{{1, 77}, JobId{1}, {{TaskSequence{0}, 1, Attempt{1}}}};
  worker_ = add_worker(1, 2, {"f"}, {held});
  const auto early = ask(worker_, StoreOperation::claim, "experiment");
  const auto unnamed = ask(worker_, StoreOperation::claim, "unnamed");
  EXPECT_EQ(reached(early, worker_), "(waits)");
  producer_ = add_producer(1, true);
  EXPECT_EQ(reached(early, worker_), "(waits)");
  name(producer_, "experiment", "seal");
  EXPECT_EQ(reached(early, worker_), of_producer(producer_, "experiment"));
  EXPECT_EQ(reached(unnamed, worker_), "(waits)");
  send(producer_, message::Heartbeat{0, false});
  EXPECT_EQ(reached(unnamed, worker_), "(refused)") << "the session said what it names";
}

TEST_F(SchedulerStoresTest, AnEarlyQuestionEndsWithItsSessionAndItsWorker) {
  for (const bool worker_goes : {false, true}) {
    restart();
    const message::HeldLeases held{{1, 77}, JobId{1}, {{TaskSequence{0}, 1, Attempt{1}}}};
    worker_ = add_worker(1, 2, {"f"}, {held});
    const auto early = ask(worker_, StoreOperation::claim, "experiment");
    if (worker_goes) {
      send(worker_, message::Goodbye{});
    } else {
      pass(options_.session_grace + 1s, {worker_});
    }
    EXPECT_EQ(reached(early, worker_), worker_goes ? "(waits)" : "(refused)");
  }
}

TEST_F(SchedulerStoresTest, AProgramNamesABoundedNumberOfStores) {
  for (std::size_t i = 0; i <= kMostStoresOfSession; ++i) {
    name(producer_, "store" + std::to_string(i), "seal");
  }
  run_a_task(producer_);
  EXPECT_NE(claimed(worker_, "store1023"), "(refused)");
  EXPECT_EQ(claimed(worker_, "store1024"), "(refused)");
}

}  // namespace
}  // namespace muster
