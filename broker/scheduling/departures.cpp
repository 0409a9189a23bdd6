#include "broker/scheduling/departures.hpp"

#include <algorithm>
#include <deque>
#include <utility>

#include "common/protocol/resources.hpp"

namespace muster {
namespace {

// Workers that were lost while a task waited there, before that counts as lost while running: a
// task that ends its worker at once may never be heard of as started.
constexpr std::uint8_t kMostLostWaiting = 8;

// Whether the lease of a worker that was lost still waited for blobs there.
bool was_waiting(Books& books, const JobRecord& job, TaskRecord& task, const WorkerRecord& worker) {
  if (!task.fetches || task.lost_waiting >= kMostLostWaiting) return false;
  if (!lacks_blobs(job, task, worker)) return false;
  ++task.lost_waiting;
  books.count("leases_lost_waiting");
  return true;
}

}  // namespace

void forget_connection(Reactor& reactor, const SessionRecord& session) {
  const auto found = reactor.peers.find(session.peer);
  if (found != reactor.peers.end() && found->second.session == &session) reactor.peers.erase(found);
}

void end_session(Reactor& reactor, SessionRecord& session) {
  forget_connection(reactor, session);
  while (!session.jobs.empty()) reactor.endings.forget_job(*session.jobs.begin()->second);
  reactor.stores.forget(session);
  reactor.blobs.end_session(session);
  for (SessionRecord* richer : reactor.books.leave_user(session)) {
    reactor.out.send(*richer, message::Credit{richer->credit.tasks, richer->credit.bytes});
  }
  reactor.books.remove_session(session);
  reactor.stores.review_early();
}

void lose_worker(Reactor& reactor, WorkerIndex index, bool told_to_stop) {
  Books& books = reactor.books;
  WorkerRecord& worker = books.worker(index);
  books.count(told_to_stop ? "workers_left" : "workers_lost");
  std::uint32_t running = worker.usable_slots();
  std::uint32_t waiting = worker.waiting;
  const std::deque<LeaseRun> order = std::exchange(worker.order, {});
  for (const LeaseRun& run : order) {
    JobRecord* job = books.find_job(run.job);
    for (std::uint64_t s = run.first; job != nullptr && s < run.first + run.count; ++s) {
      TaskRecord* task = job->find(s);
      if (!books.is_open(index, run, task)) continue;
      if (!told_to_stop) task->suspect = task->out_of_sight = true;
      if (waiting > 0 && was_waiting(books, *job, *task, worker)) {
        --waiting;
        reactor.endings.lose_lease(*job, s, *task, false);
        continue;
      }
      const bool was_running = !told_to_stop && running > 0;
      const std::uint32_t width = width_of(job->spec.resources, shape_of(worker.hello));
      running -= std::min(running, width);
      reactor.endings.lose_lease(*job, s, *task, was_running);
    }
  }
  for (auto& [key, job] : books.jobs()) job->told.erase(index);
  reactor.reports.forget_worker(index);
  reactor.stores.forget(index);
  reactor.acknowledgements.forget(index);
  books.remove_worker(index);
}

}  // namespace muster
