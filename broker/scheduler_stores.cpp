// Questions about stores of computed values: the scheduler knows who asks, others answer.
#include <utility>

#include "broker/scheduler.hpp"

namespace muster {

void Scheduler::ask_store(const StoreOrigin& origin, message::StoreRequest&& request) {
  store_events_.push_back({origin, std::move(request)});
}

void Scheduler::forget_in_stores(const StoreOrigin& origin) {
  store_events_.push_back({origin, std::nullopt});
}

void Scheduler::answer(const StoreOrigin& origin, message::StoreAnswer&& answer) {
  if (origin.is_worker) {
    const WorkerIndex index = workers_.find(WorkerId{origin.high, origin.low});
    if (index != kNoWorker) send_worker(index, std::move(answer));
    return;
  }
  const auto found = sessions_.find(SessionId{origin.high, origin.low});
  if (found == sessions_.end() || !found->second->present) return;
  send(found->second->peer, std::move(answer));
}

}  // namespace muster
