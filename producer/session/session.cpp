#include "producer/session/session.hpp"

#include <algorithm>
#include <utility>

#include "common/printable.hpp"
#include "common/protocol/limits.hpp"

namespace muster {
namespace {

// Messages that cannot be read, each within `kUnreadableMemory` of the one before: a broker that
// says the same thing again will do so once more.
constexpr int kMostUnreadable = 3;
constexpr Duration kUnreadableMemory = std::chrono::minutes(1);

}  // namespace

Session::Session(SessionOptions options)
    : options_(std::move(options)), jobs_(options_.acknowledgement_window, options_.most_jobs) {}

void Session::set_now(Time now) {
  now_ = now;
  jobs_.set_now(now);
}

// --- What the application wants

std::uint64_t Session::request_nodes(NodeCommand command) {
  return node_calls_.request(std::move(command), sayable());
}

std::uint64_t Session::ask_store(std::uint64_t claimant, StoreQuestion question) {
  return stores_.ask(claimant, std::move(question), sayable());
}

void Session::request_status() {
  if (status_wanted_) return;
  status_wanted_ = true;
  if (link_ == Link::up) messages_.emplace_back(message::StatusRequest{});
}

void Session::close() { closed_ = true; }

// --- What happens on the link

void Session::connected(Time now) {
  set_now(now);
  connected_ = now;
  if (!heard_) heard_ = now;
  if (link_ == Link::refused || closed_) return;
  say_hello();
}

void Session::say_hello() {
  link_ = Link::waiting;
  greeted_ = true;
  messages_.clear();
  messages_.emplace_back(message::HelloProducer{limits::kProtocolVersion, MUSTER_VERSION,
                                                options_.session, options_.label,
                                                incarnation_.has_value()});
}

void Session::receive(Message&& message, Time now) {
  set_now(now);
  if (!link_lives() || !greeted_ || closed_) return;
  heard_ = now;
  std::visit([this]<typename Kind>(Kind&& kind) { on(std::forward<Kind>(kind)); },
             std::move(message));
}

void Session::receive_unreadable(const std::string& reason, Time now) {
  set_now(now);
  if (!link_lives() || !greeted_ || closed_) return;
  heard_ = now;
  if (now - unreadable_at_ > kUnreadableMemory) unreadable_ = 0;
  unreadable_at_ = now;
  const bool is_last = ++unreadable_ >= kMostUnreadable;
  give_up(is_last ? Link::refused : Link::silent);
  events_.unreadable = Unreadable{printable_line(reason), is_last};
}

void Session::give_up(Link link) {
  link_ = link;
  greeted_ = false;
  messages_.clear();
}

void Session::on(message::Welcome&& welcome) {
  if (welcome.protocol_version != limits::kProtocolVersion) {
    on(message::Refuse{message::RefuseCode::version,
                       "the broker speaks another protocol version; install muster " +
                           welcome.software_version + " here"});
    return;
  }
  const bool again = link_ == Link::up && incarnation_ == welcome.incarnation;
  take_settings(welcome);
  if (!again) resume(welcome);  // the answer to a second HELLO on one connection says nothing new
}

void Session::take_settings(const message::Welcome& welcome) {
  // Bounded: a broker's mistake must not make this session spin or never notice a silence.
  heartbeat_interval_ = std::clamp<Duration>(welcome.heartbeat_interval,
                                             std::chrono::milliseconds(10), std::chrono::hours(1));
  heartbeat_misses_ = std::clamp(welcome.heartbeat_misses, 1U, 1000U);
  jobs_.set_credit(welcome.credit_tasks, welcome.credit_bytes);
  pack_ = welcome.pack;
  events_.blob_terms = BlobTerms{welcome.blob_folders, welcome.blob_token,
                                 welcome.credit_blob_bytes, welcome.credit_memory_bytes};
}

void Session::resume(const message::Welcome& welcome) {
  link_ = Link::up;
  const bool is_new = incarnation_ != welcome.incarnation;
  incarnation_ = welcome.incarnation;
  stores_.resume_names(messages_);
  jobs_.resume(welcome.jobs, messages_);
  if (status_wanted_) messages_.emplace_back(message::StatusRequest{});
  node_calls_.resume(is_new, messages_);
  blobs_.resume(is_new);
  stores_.resume(messages_);
  jobs_.say_held_results(messages_);
}

void Session::on(message::Refuse&& refuse) {
  link_ = Link::refused;
  messages_.clear();
  events_.refused = message::Refuse{refuse.code, printable(refuse.text)};
}

// While an answer to HELLO is awaited this answers something older: WELCOME follows.
void Session::on(message::Unknown&&) {
  if (link_ == Link::up) say_hello();
}

void Session::on(message::Heartbeat&& heartbeat) {
  if (heartbeat.reply_wanted && link_ == Link::up) {
    messages_.emplace_back(message::Heartbeat{heartbeat.token, false});
  } else if (!heartbeat.reply_wanted) {
    blobs_.confirm_releases(heartbeat.token);
  }
}

void Session::on(message::Credit&& credit) { jobs_.set_credit(credit.tasks, credit.bytes); }

void Session::on(message::Notice&& notice) {
  if (!jobs_.knows(notice.job)) return;
  notice.text = printable(notice.text);  // it may quote nodes
  events_.notices.push_back(std::move(notice));
}

void Session::on(message::Status&& status) {
  if (!status_wanted_) return;
  status_wanted_ = false;
  events_.status = std::move(status);
}

// Of a job that ended meanwhile too: its last lines are often the ones that say why.
void Session::on(message::Output&& output) {
  if (!jobs_.ever_knew(output.job)) return;
  output.node = printable_line(output.node);  // part of what is shown before each line
  events_.outputs.push_back(std::move(output));
}

void Session::on(message::Outcomes&& outcomes) {
  const std::size_t before = events_.delivered.size();
  jobs_.hear(std::move(outcomes), events_.delivered, sayable());
  for (std::size_t i = before; i < events_.delivered.size(); ++i) {
    blobs_.keep_of(events_.delivered[i].outcomes);
  }
}

void Session::on(message::BlobAnswers&& answers) {
  blobs_.hear(std::move(answers), events_.blob_answers);
}

void Session::on(message::NodesAnswer&& answer) {
  if (auto answered = node_calls_.answered(std::move(answer))) {
    events_.nodes_answered.push_back(*std::move(answered));
  }
}

void Session::on(message::StoreAnswer&& answer) {
  if (stores_.is_answer(answer)) events_.store_answers.push_back(std::move(answer));
}

void Session::tick(Time now) {
  set_now(now);
  if (!heard_) heard_ = now;
  if (!link_lives() || !greeted_ || closed_) return;
  if (now - std::max(*heard_, connected_) >= longest_silence()) {
    give_up(Link::silent);
  } else if (link_ == Link::up && now - said_ >= heartbeat_interval_) {
    messages_.emplace_back(message::Heartbeat{});
  }
}

Time Session::next_deadline() const {
  if (!messages_.empty() || can_send()) return now_;
  if (!link_lives() || !greeted_ || closed_) return kNever;
  const Time silence = std::max(*heard_, connected_) + longest_silence();
  if (link_ != Link::up) return silence;
  return std::min({silence, said_ + heartbeat_interval_, jobs_.next_acknowledgement()});
}

// Whether another turn would say anything now.
bool Session::can_send() const {
  if (link_ != Link::up || closed_) return false;
  if (jobs_.has_talk() || blobs_.has_talk()) return true;
  return !blobs_.in_doubt() && jobs_.can_send();
}

std::vector<Message> Session::take_messages() {
  std::vector<Message> messages = std::exchange(messages_, {});
  if (link_ == Link::up && !closed_) {
    // Acknowledgements go first: they free the credit that the tasks after them use.
    jobs_.talk(blobs_.has_releases(), messages);
    blobs_.talk(messages);
    if (!blobs_.in_doubt()) jobs_.send(messages, events_.notices);
  }
  if (closed_ && !std::exchange(goodbye_said_, true) && link_lives() && greeted_) {
    messages.emplace_back(message::Goodbye{});
  }
  if (!messages.empty()) said_ = now_;
  return messages;
}

Session::Events Session::take_events() { return std::exchange(events_, {}); }

void Session::check_invariants() const {
  jobs_.check_invariants(link_ == Link::up);
  blobs_.check_invariants();
}

}  // namespace muster
