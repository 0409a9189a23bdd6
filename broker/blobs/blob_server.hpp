// The broker's end of bulk connections, on which blobs travel to workers that do not share its
// folders, and blobs of outcomes from them.
//
// Everybody gets a chunk in turn, a few in each turn of the loop, so that no other message waits
// behind more than that. Nobody can make the broker pile up what it does not read: after some
// chunks a worker must answer a HEARTBEAT, which comes behind them.
//
// Owner: BrokerLoop. Threads: the loop's. Blocking: on input and output of single chunks.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "broker/blobs/blob_pulls.hpp"
#include "broker/blobs/blob_store.hpp"
#include "broker/scheduling/scheduler.hpp"
#include "common/net/transport.hpp"

namespace muster {

class BlobServer {
 public:
  // All of them outlive this.
  BlobServer(BlobStore& store, Scheduler& scheduler, Router& router);
  ~BlobServer();

  // Takes what concerns it: everything on bulk connections, and outcomes that name blobs. False:
  // the message is the scheduler's. `user`: the one behind a connection that is not local.
  bool hear(PeerId peer, Message& message, Time now, const RemoteUser* user = nullptr,
            const LocalUser& local = {});
  // This connection broke the protocol or is gone: forgets it.
  void forget(PeerId peer, Time now);
  // Sends the chunks of this turn, asks for others, gives complete outcomes to the scheduler.
  void turn(Time now);
  Time next_deadline() const;

 private:
  class Books;
  struct Peer {
    WorkerId worker;
    std::string user;
    bool is_remote = false;
    std::deque<message::BlobWant> wants;
    std::uint32_t unread = 0;      // chunks and answers since the last echo, at most
    std::uint32_t since_mark = 0;  // … of those, since the last mark
    std::uint64_t mark = 0;        // what it is to echo; 0: nothing
  };

  void greet(PeerId peer, const message::HelloBulk& hello, Time now, const RemoteUser* user,
             const LocalUser& local);
  void hear_bulk(PeerId id, Peer& peer, Message& message, Time now);
  void want(PeerId id, Peer& peer, const message::BlobWant& want, Time now);
  void refuse(PeerId peer, message::RefuseCode code, const std::string& text, Time now);
  void serve(Time now);
  bool serve(PeerId id, Peer& peer, const message::BlobWant& want, Time now);
  bool send(PeerId id, const Message& message, Time now);
  std::shared_ptr<std::byte[]> free_buffer();
  void give_ready(Time now);
  void review(Time now);
  bool has_work() const;

  BlobStore& store_;
  Scheduler& scheduler_;
  Router& router_;
  std::unique_ptr<Books> books_;
  std::optional<BlobPulls> pulls_;  // none without a folder
  std::map<PeerId, Peer> peers_;
  std::map<WorkerId, PeerId> by_worker_;
  PeerId served_last_{};
  std::vector<std::shared_ptr<std::byte[]>> buffers_;
  std::uint64_t sent_bytes_ = 0;
  std::uint64_t departures_ = 0;
  Time next_review_{0};
};

}  // namespace muster
