// Bytes as a life of a worker's agent: a broker that says anything, an executor and a cache that
// keep their contracts, links that come and go, time that passes. The agent never contradicts
// itself, starts no lease twice, and what it says is readable.
#include <algorithm>
#include <utility>
#include <vector>

#include "common/check.hpp"
#include "tests/fuzz/speaker.hpp"
#include "worker/agent/agent.hpp"

namespace muster {
namespace {

using fuzz::Input;
using fuzz::Speaker;

constexpr std::size_t kMaxSteps = 400;

AgentOptions options(Input& input) {
  AgentOptions options;
  options.worker = {7, 1};
  options.node = "node";
  options.executor = "thread";
  options.slots = 1 + input.below(4);
  options.cores = 1 + input.below(4);
  options.memory_bytes = input.below(5);
  options.gpus = input.below(3);
  options.python = "f";
  options.functions = {"f"};
  if (input.byte() > 200) options.proof = "f";
  return options;
}

class Worker {
 public:
  explicit Worker(Input& input) : agent_(options(input)) {}

  void step(Input& input) {
    const std::uint8_t kind = input.byte();
    if (kind < 120) {
      if (auto heard = fuzz::through_codec(Speaker(input).to_worker())) {
        agent_.receive(*std::move(heard), now_);
      }
    } else if (kind < 130) {
      agent_.connected(now_);
    } else if (kind < 133) {
      agent_.disconnected(now_);
    } else if (kind < 150) {
      now_ += std::chrono::milliseconds(1U << input.below(18));
      agent_.tick(now_);
    } else if (kind < 210) {
      report_of_executor(input);
    } else {
      report_of_others(input);
    }
    agent_.check_invariants();
    if (input.flag()) act();
  }

 private:
  Lease take(std::vector<Lease>& leases, Input& input) {
    const auto at = leases.begin() + input.below(static_cast<std::uint32_t>(leases.size()));
    const Lease lease = *at;
    leases.erase(at);
    return lease;
  }
  // Every start ends once, a recalled one perhaps by going back.
  void report_of_executor(Input& input) {
    if (started_.empty()) return;
    const Lease lease = take(started_, input);
    const bool recalled = std::erase(recalled_, lease) > 0;
    if (recalled && input.flag()) {
      agent_.handed_back({lease}, now_);
      return;
    }
    std::vector<TaskFinish> finished;
    finished.push_back({lease, Speaker(input).outcome(), Duration(input.number() >> 2)});
    agent_.finished(std::move(finished), now_);
  }
  void report_of_others(Input& input) {
    Speaker speaker(input);
    switch (input.below(8)) {
      case 0:
        agent_.set_stuck(input.below(6), now_);
        break;
      case 1:
        agent_.set_paused(input.flag() ? "" : speaker.name(), now_);
        break;
      case 2:
        agent_.set_sharing(input.flag(), now_);
        break;
      case 3:
        if (input.byte() > 240) agent_.drain(now_);
        break;
      case 4: {
        std::vector<message::WorkerOutput> said = {{{9, 1}, speaker.job(), {}, 1}};
        agent_.said(std::move(said), now_);
        break;
      }
      default:
        agent_.report(
            {{static_cast<BlobReport::Kind>(input.below(4)), speaker.blob().id, "gone", releases_}},
            now_);
        break;
    }
  }
  // What the loop does with the agent's actions.
  void act() {
    for (;;) {
      const Agent::Actions actions = agent_.take_actions();
      agent_.check_invariants();
      if (actions.empty()) return;
      for (const Message& said : actions.messages) CHECK(fuzz::through_codec(said).has_value());
      for (const TaskStart& start : actions.starts) {
        CHECK(std::find(started_.begin(), started_.end(), start.lease) == started_.end());
        started_.push_back(start.lease);
      }
      for (const Lease& lease : actions.recalls) {
        if (std::find(started_.begin(), started_.end(), lease) != started_.end()) {
          recalled_.push_back(lease);
        }
      }
      for (const BlobRequest& request : actions.blobs) {
        const bool frees =
            request.kind == BlobRequest::Kind::release || request.kind == BlobRequest::Kind::drop;
        if (frees) ++releases_;
      }
    }
  }

  Time now_ = std::chrono::hours(1);
  Agent agent_;
  std::vector<Lease> started_;
  std::vector<Lease> recalled_;
  std::uint64_t releases_ = 0;
};

}  // namespace
}  // namespace muster

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  muster::fuzz::Input input(data, size);
  muster::Worker worker(input);
  for (std::size_t i = 0; i < muster::kMaxSteps && !input.empty(); ++i) worker.step(input);
  return 0;
}
