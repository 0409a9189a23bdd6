// Bytes as a life of a producer's session: a program that wants anything, a broker that says
// anything, links that come and go, time that passes. Each task's outcome is delivered at most
// once, only of what was submitted, and what the session says is readable.
#include <algorithm>
#include <map>
#include <set>
#include <utility>
#include <vector>

#include "common/check.hpp"
#include "producer/session/session.hpp"
#include "tests/fuzz/speaker.hpp"

namespace muster {
namespace {

using fuzz::Input;
using fuzz::Speaker;

constexpr std::size_t kMaxSteps = 400;

class Producer {
 public:
  void step(Input& input) {
    const std::uint8_t kind = input.byte();
    if (kind < 110) {
      if (auto heard = fuzz::through_codec(Speaker(input).to_producer())) {
        session_.receive(*std::move(heard), now_);
      }
    } else if (kind < 130) {
      session_.connected(now_);
    } else if (kind < 150) {
      // Milliseconds to minutes.
      now_ += std::chrono::milliseconds(1U << input.below(18));
      session_.tick(now_);
    } else if (kind < 200) {
      want_tasks(input);
    } else {
      want_others(input);
    }
    session_.check_invariants();
    if (input.flag()) collect();
  }

 private:
  void want_tasks(Input& input) {
    Speaker speaker(input);
    const std::uint32_t choice = input.below(8);
    if (choice == 0 || open_.empty()) {
      open_.push_back(session_.open_job(speaker.spec()));
      return;
    }
    const JobId job = open_[input.below(static_cast<std::uint32_t>(open_.size()))];
    if (choice == 1) {
      session_.end_job(job);
      std::erase(open_, job);
    } else if (choice == 2) {
      submitted_[job] = value(session_.submit(job, speaker.payload())) + 1;
    } else {
      std::vector<Payload> payloads = speaker.payloads();
      const std::uint64_t count = payloads.size();
      submitted_[job] = value(session_.submit(job, std::move(payloads))) + count;
    }
  }
  void want_others(Input& input) {
    Speaker speaker(input);
    switch (input.below(10)) {
      case 0:
        session_.cancel(speaker.job());
        break;
      case 1:
        session_.cancel(speaker.job(), TaskSequence{input.number()});
        break;
      case 2:
        session_.request_status();
        break;
      case 3:
        session_.request_nodes(message::NodesUp{speaker.name(), "f"});
        break;
      case 4:
        session_.request_nodes(message::NodesDown{{speaker.name()}, input.flag()});
        break;
      case 5:
        session_.forget_unanswered_nodes();
        break;
      case 6:
        session_.put_blob({speaker.blob(), static_cast<BlobPlace>(input.below(4)), "file", 0});
        break;
      case 7:
        session_.release_blob(speaker.blob().id);
        break;
      case 8:
        session_.ask_store(1 + input.below(3), StoreQuestion{});
        break;
      default:
        if (input.byte() == 255) session_.close();
        break;
    }
  }
  void collect() {
    for (const Message& said : session_.take_messages()) {
      CHECK(fuzz::through_codec(said).has_value());
    }
    session_.check_invariants();
    for (const Session::Delivered& delivered : session_.take_events().delivered) {
      const std::uint64_t first = value(delivered.first);
      CHECK(first + delivered.outcomes.size() <= submitted_[delivered.job]);
      for (std::uint64_t i = 0; i < delivered.outcomes.size(); ++i) {
        CHECK(delivered_[delivered.job].insert(first + i).second);
      }
    }
  }

  Time now_ = std::chrono::hours(1);
  Session session_{{SessionId{9, 1}, "fuzz", std::chrono::milliseconds(20)}};
  std::vector<JobId> open_;
  std::map<JobId, std::uint64_t> submitted_;
  std::map<JobId, std::set<std::uint64_t>> delivered_;
};

}  // namespace
}  // namespace muster

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  muster::fuzz::Input input(data, size);
  muster::Producer producer;
  for (std::size_t i = 0; i < muster::kMaxSteps && !input.empty(); ++i) producer.step(input);
  return 0;
}
