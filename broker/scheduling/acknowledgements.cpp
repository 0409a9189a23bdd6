#include "broker/scheduling/acknowledgements.hpp"

#include <utility>

namespace muster {
namespace {

// Messages of outcomes that a worker keeps although they arrived: a few round trips' worth.
constexpr std::size_t kMostAcknowledgements = 16;

}  // namespace

void Acknowledgements::add(WorkerIndex index, message::AcknowledgeLeases&& message, Time now) {
  WorkerRecord& worker = books_.worker(index);
  if (worker.acknowledgements.empty()) {
    waiting_.push_back(index);
    worker.acknowledgements_since = now;
  }
  worker.acknowledgements.push_back(std::move(message));
}

void Acknowledgements::flush(Time now) {
  std::erase_if(waiting_, [&](WorkerIndex index) {
    WorkerRecord& worker = books_.worker(index);
    if (worker.told_in_turn != books_.turn() && !worker.draining &&
        worker.acknowledgements.size() < kMostAcknowledgements &&
        now - worker.acknowledgements_since < books_.options().acknowledgement_window) {
      return false;
    }
    for (auto& message : std::exchange(worker.acknowledgements, {})) {
      out_.send(worker, std::move(message));
    }
    worker.last_sent = now;
    return true;
  });
}

Time Acknowledgements::next_deadline() const {
  if (waiting_.empty()) return kNever;
  const WorkerRecord& oldest = books_.worker(waiting_.front());
  return oldest.acknowledgements_since + books_.options().acknowledgement_window;
}

}  // namespace muster
