// The broker's loop: the only place in the process that blocks and that reads the clock.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "broker/blobs/blob_server.hpp"
#include "broker/blobs/blob_store.hpp"
#include "broker/door/authenticator.hpp"
#include "broker/door/endpoints.hpp"
#include "broker/door/local_users.hpp"
#include "broker/door/outbox.hpp"
#include "broker/nodes/nodes_control.hpp"
#include "broker/scheduling/scheduler.hpp"
#include "broker/stores/store_server.hpp"
#include "common/attention.hpp"
#include "common/net/transport.hpp"
#include "common/system/service_notify.hpp"

namespace muster {

struct BrokerOptions {
  EndpointOptions endpoints;
  std::vector<std::string> worker_users = {};  // whose local workers are admitted (LocalUsers)
  int lifeline = -1;                           // descriptor; its end of file ends the broker
  std::string hosts = {};           // a hosts file whose nodes come up at the start; empty: none
  std::string remember_nodes = {};  // a file for NodesControl::remember; empty: none
  std::vector<std::string> node_plugins = {};  // that every worker reached by ssh loads
  BlobOptions blobs;
  SchedulerOptions scheduler;
  StoreOptions stores;
  ServiceManager service;  // systemd, which wants to know that the broker is ready and lives
};

class BrokerLoop {
 public:
  // `signals`: a signalfd; SIGHUP reads the authorized workers again, any other signal ends the
  // loop. `endpoints`, `authenticator`, `nodes`, `blobs` and `stores` outlive this.
  BrokerLoop(const BrokerOptions& options, int signals, Endpoints& endpoints,
             const Authenticator& authenticator, NodesControl& nodes, BlobStore& blobs,
             StoreServer& stores);

  // Serves until a signal, the lifeline's end or a producer's wish, then ends the workers on the
  // nodes. Blocks for the life of the process.
  void run();

 private:
  Time now() const;
  void sleep();
  bool told_to_end();
  void take_input();
  void hear(Received&& received);
  void hear_greeting(const Received& received, Message&& message);
  bool is_for_outbox(PeerId peer, const Message& message);
  void refuse_malformed(PeerId peer, const DecodeError& error);
  void send_output();
  void answer_due();
  void give_up(PeerId peer, SendResult why);
  void serve_stores();
  void tick();
  void count_refused_connections();
  void reload_authorized();

  const int signals_;
  const int lifeline_;
  Endpoints& endpoints_;
  Router& router_;
  const Authenticator& authenticator_;
  const LocalUsers local_users_;
  NodesControl& nodes_;
  BlobStore& blobs_;
  StoreServer& stores_;
  ServiceNotifier notifier_;
  const Duration heartbeat_interval_;
  Attention attention_;  // what follows, nodes_ and blobs_ know attended times only
  Scheduler scheduler_;
  Outbox outbox_;
  std::uint64_t refusals_ = 0;
  std::uint64_t departures_ = 0;
  BlobServer blob_server_;
  Poller poller_;
  struct Told {
    std::uint64_t count = 0;
    Time at{0};
  };
  std::map<std::string, Told> counters_told_;
};

}  // namespace muster
