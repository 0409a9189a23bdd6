// Blobs of the simulated world: producers' tasks and jobs name some, workers fetch what they lack
// and lose it again. Every worker has a cache of its own, or shares the broker's folders.
#include <algorithm>
#include <utility>

#include "common/protocol/blob_names.hpp"
#include "tests/simulator/parts.hpp"
#include "tests/simulator/world.hpp"

namespace muster::simulator {
namespace {

using namespace std::chrono_literals;

constexpr std::uint64_t kBlobs = 8;
constexpr std::uint64_t kBlobStep = 10'000'000;

}  // namespace

BlobName World::blob_of(std::uint64_t number) const {
  const std::uint64_t kind = number % kBlobs;
  return {{plan_.seed + 1000, kind + 1}, (kind + 1) * kBlobStep};
}

// The same for every call: whoever has a result knows what its task named.
Payload World::with_names(std::uint32_t job, std::uint64_t sequence, Payload body) const {
  if (!plan_.faults.blobs || (job + sequence) % 3 == 0) return body;
  std::vector<BlobName> names{blob_of(job * 5 + sequence / 16)};
  if (sequence % 7 == 0) names.push_back(blob_of(sequence));
  return with_blobs(names, body);
}

// --- Producers and the broker
// -----------------------------------------------------------------------------

void World::need_blobs(Producer& producer, const Payload& payload) {
  for (std::uint32_t i = 0; i < payload.blobs; ++i) {
    const BlobName name = blob_at(payload, i);
    if (producer.needed[name.id]++ > 0) continue;
    producer.session.put_blob({name, BlobPlace::memory, to_hex(name.id)});
  }
}

void World::let_go_of_blobs(Producer& producer, const Payload& payload) {
  for (std::uint32_t i = 0; i < payload.blobs; ++i) {
    const BlobId id = blob_at(payload, i).id;
    if (--producer.needed.at(id) > 0) continue;
    producer.needed.erase(id);
    producer.session.release_blob(id);
    count("blobs_released");
  }
}

void World::answer_blobs(Producer& producer, const std::vector<BlobAnswer>& answers) {
  for (const BlobAnswer& answer : answers) {
    if (answer.state == BlobState::refused) fail("the broker refused a blob: " + answer.text);
    if (answer.state == BlobState::here) continue;
    count("blobs_missing");
    if (producer.needed.count(answer.id) == 0) continue;  // a result: it is lost
    const std::uint64_t number = answer.id.low - 1;
    producer.session.put_blob({blob_of(number), BlobPlace::memory, to_hex(answer.id)});
  }
}

// What the broker does before the scheduler hears of an outcome: it gets the blobs.
void World::pull_results(std::uint64_t peer, const Message& message) {
  const auto* finished = std::get_if<message::WorkerOutcomes>(&message);
  if (finished == nullptr) return;
  const auto from = scheduler_->worker_at(PeerId{peer});
  if (!from) return;
  for (const OutcomeRun& run : finished->runs) {
    for (std::size_t i = 0; i < run.outcomes.size(); ++i) {
      const Payload& body = run.outcomes[i].body;
      if (body.blobs == 0 ||
          !scheduler_->expects_outcome(from->id, finished->session, finished->job, run.first + i,
                                       run.attempt)) {
        continue;
      }
      for (std::uint32_t blob = 0; blob < body.blobs; ++blob) files_.add(blob_at(body, blob));
    }
  }
}

void World::check_result_blobs(Producer& producer, const Payload& body) {
  for (std::uint32_t i = 0; i < body.blobs; ++i) {
    const BlobName name = blob_at(body, i);
    count("result_blobs");
    // A slow consumer.
    after(random_duration(plan_.max_transfer), [this, &producer, id = name.id] {
      producer.session.release_blob(id);
      pump_producer(producer);
    });
  }
}

// --- Workers
// -----------------------------------------------------------------------------

void World::carry_blobs(Worker& worker, const std::vector<BlobRequest>& requests) {
  for (const BlobRequest& request : requests) {
    const BlobId id = request.name.id;
    if (request.kind == BlobRequest::Kind::fetch) {
      worker.needed.insert(id);
      const bool is_there = worker.cache.count(id) != 0;
      count(is_there ? "blobs_found" : "blobs_fetched");
      after(is_there ? Duration(1us) : random_duration(plan_.max_transfer),
            [this, &worker, id] { end_fetch(worker, id); });
    } else if (request.kind == BlobRequest::Kind::release) {
      worker.needed.erase(id);
      if (chance(0.5)) {
        after(random_duration(plan_.max_transfer), [this, &worker, id] { evict(worker, id); });
      }
    }
  }
}

void World::end_fetch(Worker& worker, const BlobId& id) {
  if (worker.link.dead || worker.needed.count(id) == 0) return;
  if (plan_.faults.errors && chance(0.02)) {
    worker.agent.blob_gone(id, "the link ate it", now_);
  } else {
    worker.cache.insert(id);
    worker.agent.blob_here(id, now_);
  }
  pump_worker(worker);
}

void World::evict(Worker& worker, const BlobId& id) {
  if (worker.link.dead || worker.needed.count(id) != 0 || worker.cache.erase(id) == 0) return;
  count("blobs_evicted");
  worker.agent.report({{BlobReport::Kind::evicted, id}}, now_);
  pump_worker(worker);
}

void World::check_blobs(const Worker& worker, const Payload& payload) {
  for (std::uint32_t i = 0; i < payload.blobs; ++i) {
    const BlobId id = blob_at(payload, i).id;
    count(worker.shares ? "blobs_shared" : "blobs_used");
    if (!worker.shares && (worker.cache.count(id) == 0 || worker.needed.count(id) == 0)) {
      fail("a task runs without its blobs");
    }
  }
}

}  // namespace muster::simulator
