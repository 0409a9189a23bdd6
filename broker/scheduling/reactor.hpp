// What the scheduler reacts with: its books, and the objects that what a peer says changes. The
// functions in producer_messages.hpp, worker_messages.hpp, departures.hpp and liveness.hpp work on
// it. Pure.
#pragma once

#include <optional>
#include <utility>
#include <variant>
#include <vector>

#include "broker/books/blob_accounts.hpp"
#include "broker/books/books.hpp"
#include "broker/books/outgoing_messages.hpp"
#include "broker/books/status_report.hpp"
#include "broker/scheduling/acknowledgements.hpp"
#include "broker/scheduling/endings.hpp"
#include "broker/scheduling/lease_reports.hpp"
#include "broker/scheduling/outcome_delivery.hpp"
#include "broker/scheduling/peers.hpp"
#include "broker/scheduling/store_questions.hpp"

namespace muster {

// What a producer wants of the nodes that the broker reaches by ssh: not the scheduler's to do.
struct NodeRequest {
  PeerId peer{};  // gets the answer
  std::variant<message::NodesUp, message::NodesDown> request;
};

struct Reactor {
  Reactor(SchedulerOptions options, Time now) : books(std::move(options), now) {}
  Reactor(const Reactor&) = delete;
  Reactor& operator=(const Reactor&) = delete;

  Books books;
  OutgoingMessages out;
  Peers peers;
  BlobAccounts blobs{books};
  StatusReport status{books};
  OutcomeDelivery delivery{books, out};
  Acknowledgements acknowledgements{books, out};
  Endings endings{books, blobs, delivery, out};
  LeaseReports reports{books, blobs, endings, out};
  StoreQuestions stores{books, out};
  std::vector<NodeRequest> node_requests = {};
  message::Pool announced = {};  // what every present session was told
};

// Why a peer is refused; nothing: it is not.
using Refusal = std::optional<message::Refuse>;

}  // namespace muster
