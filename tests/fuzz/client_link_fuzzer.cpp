// Bytes as what a broker sends a client: frames through the codec into the session, and what it
// makes of them into collectors and the keeper of blobs, as Client::dispatch() does. Among them a
// program submits, takes results and scatters. Nothing aborts, no outcome comes twice.
#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "common/check.hpp"
#include "producer/blobs/blob_keeper.hpp"
#include "producer/client/outcome_error.hpp"
#include "producer/session/collector.hpp"
#include "tests/fuzz/speaker.hpp"

namespace muster {
namespace {

using fuzz::Input;
using fuzz::Speaker;

constexpr std::size_t kMaxSteps = 200;
constexpr SessionId kSession{9, 1};

// Where a broker on this machine would keep blobs; gone with the process.
class Folders {
 public:
  Folders() {
    std::string path = "/tmp/muster-fuzz-XXXXXX";
    CHECK(::mkdtemp(path.data()) != nullptr);
    root_ = path;
    for (const char* name : {"memory/incoming", "disk/incoming"}) {
      std::filesystem::create_directories(root_ / name);
    }
    std::ofstream(root_ / "memory" / "token") << "f";
  }
  ~Folders() { std::filesystem::remove_all(root_); }
  Folders(const Folders&) = delete;
  Folders& operator=(const Folders&) = delete;

  std::vector<std::string> names() const {
    return {(root_ / "memory").string(), (root_ / "disk").string()};
  }
  void empty() const {
    for (const char* name : {"memory/incoming", "disk/incoming"}) {
      for (const auto& entry : std::filesystem::directory_iterator(root_ / name)) {
        std::filesystem::remove(entry);
      }
    }
  }

 private:
  std::filesystem::path root_;
};

Folders& folders() {
  static Folders made;
  return made;
}

class Client {
 public:
  ~Client() {
    blobs_.clear();
    payloads_.clear();
    jobs_.clear();
    keeper_->close();
    folders().empty();
  }

  void step(Input& input) {
    const std::uint8_t kind = input.byte();
    if (kind < 100) {
      hear(frames(input));
    } else if (kind < 170) {
      hear(encode(Speaker(input).to_producer(), Packing::when_smaller));
    } else if (kind < 180) {
      session_.connected(now_);
    } else if (kind < 190) {
      now_ += std::chrono::milliseconds(1U << input.below(18));
      session_.tick(now_);
    } else if (kind < 195) {
      keeper_->take_terms({folders().names(), "f", input.number(), input.number()});
    } else {
      want(input);
    }
    take_orders();
    dispatch();
    session_.check_invariants();
    for (const Message& said : session_.take_messages()) encode(said, Packing::never);
  }

 private:
  struct Job {
    Collector collector{Order::submission, 64, 1 << 20};
    std::uint64_t missing = 0;
  };

  static Frames frames(Input& input) {
    Frames made(1 + input.below(3));
    for (Bytes& frame : made) {
      const std::size_t high = input.byte() % 16;
      frame = Bytes::copy(input.take(high << 8 | input.byte()));
    }
    return made;
  }
  void hear(const Frames& said) {
    auto decoded = decode(said);
    if (auto* heard = std::get_if<Message>(&decoded)) session_.receive(std::move(*heard), now_);
  }
  void take_orders() {
    for (detail::BlobKeeper::Order& order : keeper_->take_orders(kNever)) {
      if (auto* source = std::get_if<BlobSource>(&order)) {
        session_.put_blob(std::move(*source));
      } else {
        const BlobSource& released = std::get<detail::BlobKeeper::Release>(order).source;
        if (!session_.release_blob(released.name.id)) keeper_->discard(released);
      }
    }
  }
  void dispatch() {
    Session::Events events = session_.take_events();
    if (events.blob_terms) keeper_->take_terms(*events.blob_terms);
    for (const BlobAnswer& answer : events.blob_answers) {
      if (auto source = keeper_->answered(answer)) session_.put_blob(*std::move(source));
    }
    for (Session::Delivered& delivered : events.delivered) {
      for (Outcome& outcome : delivered.outcomes) {
        keeper_->hold(outcome.body);
        keeper_->explain(outcome);
      }
      Job& job = *jobs_.at(delivered.job);
      CHECK(job.missing >= delivered.outcomes.size());
      job.missing -= delivered.outcomes.size();
      job.collector.deliver(delivered.first, std::move(delivered.outcomes));
      job.collector.check_invariants();
    }
  }
  void want(Input& input) {
    const std::uint32_t choice = input.below(8);
    if (choice == 0 || jobs_.empty()) {
      const JobId id = session_.open_job({{FunctionKind::native, "f"}});
      jobs_[id] = std::make_unique<Job>();
      last_ = id;
    } else if (choice < 4) {
      submit(input);
    } else if (choice == 4) {
      scatter(input);
    } else if (choice == 5 && !blobs_.empty()) {
      blobs_.pop_back();
    } else {
      take_results();
    }
  }
  void submit(Input& input) {
    Job& job = *jobs_.at(last_);
    Payload payload = Speaker(input).payload();
    if (!blobs_.empty() && input.flag()) payload = keeper_->use(blobs_, {Bytes::borrow("b"), 0});
    if (!job.collector.has_room()) return;
    job.collector.pushed(payload.bytes.size(), payload);
    ++job.missing;
    session_.submit(last_, std::move(payload));
  }
  void scatter(Input& input) {
    if (!keeper_->shares()) return;
    const std::string_view text = input.take(1 + input.below(64));
    try {
      const auto now = std::chrono::steady_clock::now();  // never waits for room
      blobs_.push_back(keeper_->scatter(std::as_bytes(std::span(text)), now));
      if (blobs_.back().size() == 0 && !text.empty()) blobs_.pop_back();
    } catch (const Error&) {
    }
  }
  void take_results() {
    for (auto& [id, job] : jobs_) {
      while (auto collected = job->collector.next()) {
        open_outcome(collected->outcome);
      }
    }
  }

  Time now_ = std::chrono::hours(1);
  Session session_{{kSession, "fuzz"}};
  std::shared_ptr<detail::BlobKeeper> keeper_ =
      std::make_shared<detail::BlobKeeper>(kSession, nullptr);
  std::map<JobId, std::unique_ptr<Job>> jobs_;
  JobId last_{};
  std::vector<Blob> blobs_;
  std::vector<Payload> payloads_;
};

}  // namespace
}  // namespace muster

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  muster::fuzz::Input input(data, size);
  muster::Client client;
  for (std::size_t i = 0; i < muster::kMaxSteps && !input.empty(); ++i) client.step(input);
  return 0;
}
