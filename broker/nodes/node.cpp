#include "broker/nodes/node.hpp"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <system_error>
#include <utility>

#include "broker/nodes/plugin_files.hpp"
#include "common/printable.hpp"
#include "common/system/attach_exit.hpp"

namespace muster {
namespace {

// libssh and the resolver need a fraction of it; only what is touched costs memory.
constexpr std::size_t kStackBytes = std::size_t{512} << 10;
constexpr std::chrono::seconds kGoodbyeMargin{15};

std::string where(const Host& host) {
  std::string text = host.user.empty() ? host.address : host.user + "@" + host.address;
  if (host.port != 0) text += ":" + std::to_string(host.port);
  return text;
}

}  // namespace

Node::Node(Host host, const NodePoolOptions& options, Authenticator& authenticator,
           std::function<void()> on_end)
    : options_(options),
      authenticator_(authenticator),
      on_end_(std::move(on_end)),
      current_(host),
      chance_(std::random_device{}()),
      host_(std::move(host)),
      state_since_(now()) {
  pthread_attr_t attributes;
  ::pthread_attr_init(&attributes);
  ::pthread_attr_setstacksize(&attributes, kStackBytes);
  const int error = ::pthread_create(&thread_, &attributes, enter, this);
  ::pthread_attr_destroy(&attributes);
  if (error != 0) throw std::system_error(error, std::generic_category(), "a node's thread");
}

Node::~Node() {
  cut();
  ::pthread_join(thread_, nullptr);
}

// --- Called by the loop -------------------------------------------------------------------------

void Node::down(std::chrono::seconds drain) {
  const std::lock_guard lock(mutex_);
  next_.reset();
  begin_end(drain);
}

void Node::begin_end(std::chrono::seconds drain) {
  if (ending_) return;
  ending_ = true;
  drain_ = drain;
  state_ = State::ending;
  state_since_ = now();
  detail_.clear();
  if (remote_ != nullptr) {
    if (held_up_) {
      remote_->finish(fmt::format("end {}\n", drain.count()));
    } else {
      remote_->cut();
    }
  }
  changed_.notify_all();
}

bool Node::replace(Host host, std::chrono::seconds drain) {
  const std::lock_guard lock(mutex_);
  if (over_ || cut_) return false;
  begin_end(drain);
  next_ = std::move(host);  // in one step with the look at `over_`: its thread may just be ending
  return true;
}

void Node::cut() {
  const std::lock_guard lock(mutex_);
  cut_ = true;
  ending_ = true;
  next_.reset();
  if (remote_ != nullptr) remote_->cut();
  changed_.notify_all();
}

Host Node::host() const {
  const std::lock_guard lock(mutex_);
  return next_ ? *next_ : host_;
}

bool Node::ending() const {
  const std::lock_guard lock(mutex_);
  return ending_ && !next_;
}

bool Node::over() const {
  const std::lock_guard lock(mutex_);
  return over_;
}

message::NodeStatus Node::row() const {
  static constexpr const char* kNames[] = {"connecting", "preparing", "up",
                                           "waiting",    "failed",    "ending"};
  const std::lock_guard lock(mutex_);
  message::NodeStatus row;
  row.name = host_.name;
  row.address = where(host_);
  row.via = host_.via == Via::openssh ? "openssh" : "libssh";
  row.state = kNames[static_cast<std::size_t>(state_)];
  row.step = step_;
  row.detail = detail_;
  row.state_ms = static_cast<std::uint64_t>(
      std::chrono::duration_cast<std::chrono::milliseconds>(now() - state_since_).count());
  row.bytes_in = counters_.bytes_in;
  row.bytes_out = counters_.bytes_out;
  row.reconnects = ups_ == 0 ? 0 : ups_ - 1;
  return row;
}

// --- The node's thread --------------------------------------------------------------------------

void* Node::enter(void* node) {
  static_cast<Node*>(node)->run();
  return nullptr;
}

void Node::run() {
  do {
    while (!stopped()) {
      try {
        live();
      } catch (const NodeError& error) {
        failed(error);
      } catch (const std::exception& error) {
        failed({NodeError::Kind::passing, "serve", error.what()});
      }
      release();
    }
    if (may_run_) say_goodbye();
    authenticator_.revoke(current_.name);
  } while (next_host());
  spdlog::info("node {}: down", current_.name);
  on_end_();
}

bool Node::next_host() {
  const std::lock_guard lock(mutex_);
  if (!next_ || cut_) {
    over_ = true;
    return false;
  }
  current_ = *next_;
  host_ = std::move(*next_);
  next_.reset();
  ending_ = false;
  may_run_ = false;
  backoff_ = {};
  bundle_.reset();
  state_ = State::connecting;
  state_since_ = now();
  return true;
}

bool Node::stopped() const {
  const std::lock_guard lock(mutex_);
  return ending_;
}

void Node::hold(std::unique_ptr<Remote> remote) {
  const std::lock_guard lock(mutex_);
  remote_ = std::move(remote);
  held_up_ = false;
  if (cut_) remote_->cut();
}

void Node::release() {
  std::unique_ptr<Remote> old;
  const std::lock_guard lock(mutex_);
  old = std::move(remote_);
  held_up_ = false;
}

void Node::set_state(State state, const std::string& step, const std::string& detail) {
  const std::lock_guard lock(mutex_);
  step_ = step;
  detail_ = printable(detail);  // most of it is the node's own words
  if (ending_ || state_ == state) return;
  state_ = state;
  state_since_ = now();
}

Progress Node::progress() {
  return [this](const std::string& step, const std::string& detail) {
    set_state(State::preparing, step, detail);
  };
}

void Node::failed(const NodeError& error) {
  if (stopped()) return;
  const bool lasting = error.kind() == NodeError::Kind::lasting;
  std::uniform_real_distribution<double> uniform(0, 1);
  const Duration delay = backoff_.failed(lasting, now(), uniform(chance_));
  const auto milliseconds = std::chrono::duration_cast<std::chrono::milliseconds>(delay);
  spdlog::log(lasting ? spdlog::level::err : spdlog::level::warn,
              "node {}: {}: {}; next try in {:.1f} s", current_.name, error.step(),
              printable_line(error.what()), static_cast<double>(milliseconds.count()) / 1000);
  set_state(lasting ? State::failed : State::waiting, error.step(), error.what());
  release();
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, delay, [this] { return ending_; });
}

void Node::live() {
  set_state(State::connecting, "resolve", "");
  hold(make_remote(current_, counters_));
  Remote& remote = *remote_;
  if (stopped()) return;
  remote.open([this](const std::string& step) { set_state(State::connecting, step, ""); });
  if (current_.standing) {
    serve_standing(remote);
  } else {
    serve(remote);
  }
}

void Node::serve_standing(Remote& remote) {
  if (options_.curve_socket.empty() || !options_.knows_workers) {
    throw NodeError(NodeError::Kind::lasting, "forward",
                    "standing workers log in with keys, and this broker knows none: put "
                    "broker.key and authorized_workers into ~/.config/muster, then `muster down` "
                    "and `muster up` (docs/services.md)");
  }
  remote.forward(current_.reverse_port, options_.curve_socket);
  set_state(State::up, "serve", "");
  backoff_.up(now());
  {
    const std::lock_guard lock(mutex_);
    ++ups_;
    if (ending_) return;
  }
  spdlog::info("node {}: tunnel for its standing worker is up", current_.name);
  remote.serve("", "", [](std::string_view, bool) {});
}

void Node::serve(Remote& remote) {
  if (current_.curve && options_.curve_socket.empty()) {
    throw NodeError(NodeError::Kind::lasting, "forward",
                    "`curve = true` needs a second socket beside the broker's, and its path is "
                    "too long: start the broker in a folder with a shorter one");
  }
  if (current_.worker.empty() && !bundle_) bundle_ = find_bundle(options_.bundle);
  image_ = describe_image(current_, bundle_.value_or(Bundle{}));
  const std::uint16_t port = remote.forward(
      current_.reverse_port, current_.curve ? options_.curve_socket : options_.tunnel_socket);
  AttachEnd end = attach(remote, port);
  if (end.status == kAttachMissing && !stopped()) {
    prepare(remote);
    end = attach(remote, port);
  }
  if (end.status == kAttachEnded && stopped()) {
    may_run_ = false;
    return;
  }
  if (!stopped()) explain_end(end);
}

// --- The worker on the node ---------------------------------------------------------------------

AttachEnd Node::attach(Remote& remote, std::uint16_t port) {
  set_state(State::connecting, "start", "");
  // Those of the attach before are void.
  const AttachSecrets secrets = make_attach_secrets(current_);
  authenticator_.allow(current_.name, secrets.password, secrets.proof, secrets.public_key);
  AttachEnd end;
  may_run_ = true;
  end.status =
      remote.serve(attach_command(current_, bundle_.value_or(Bundle{})),
                   attach_input(current_, image_, options_, port, secrets),
                   [&](std::string_view line, bool is_error) { heard(line, is_error, end); });
  const std::lock_guard lock(mutex_);
  held_up_ = false;
  return end;
}

void Node::heard(std::string_view line, bool is_error, AttachEnd& end) {
  if (is_error) {
    if (line.empty()) return;
    end.last_words = for_log(line);
    if (end.last_words.starts_with("muster: ")) end.last_words.erase(0, 8);
    spdlog::info("node {}: {}", current_.name, end.last_words);
    return;
  }
  if (line.starts_with("lacks ")) {
    end.lack = for_log(line.substr(6));
    spdlog::info("node {}: commands and native functions only: {}", current_.name, end.lack);
  }
  if (line.starts_with("missing ")) spdlog::info("node {}: {}", current_.name, for_log(line));
  if (!line.starts_with("ready ")) return;
  backoff_.up(now());
  set_state(State::up, "serve",
            end.lack.empty() ? "" : "commands and native functions only: " + end.lack);
  const std::lock_guard lock(mutex_);
  held_up_ = true;
  ++ups_;
}

void Node::prepare(Remote& remote) {
  set_state(State::preparing, "probe", "");
  const bool ships =
      !image_.environment.empty() || !image_.include.empty() || !current_.plugins.empty();
  if (!current_.worker.empty() && !ships) {
    throw NodeError(NodeError::Kind::lasting, "start",
                    fmt::format("there is no program {} on the node: install Muster there, or "
                                "leave out `worker`",
                                current_.worker));
  }
  const NodeFacts facts = probe_node(remote);
  if (current_.worker.empty()) {
    check_fits(*bundle_, facts);
    place_bundle(remote, *bundle_, facts, progress());
  }
  place_includes(remote, current_, image_, facts, progress());
  place_plugins(remote, current_.plugins, facts, progress());
  if (bundle_) prepare_environment(remote, current_, *bundle_, image_, facts, progress());
}

// The connection was not there to end the worker: once more, for that alone.
void Node::say_goodbye() {
  std::chrono::seconds drain{0};
  {
    const std::lock_guard lock(mutex_);
    if (cut_) return;
    drain = drain_;
  }
  try {
    hold(make_remote(current_, counters_));
    remote_->open([](const std::string&) {});
    remote_->run(attach_command(current_, bundle_.value_or(Bundle{})),
                 end_input(current_, options_, drain), drain + kGoodbyeMargin);
  } catch (const std::exception& error) {
    spdlog::warn(
        "node {}: cannot end its worker ({}); it ends by itself {} s after it lost the tunnel",
        current_.name, printable_line(error.what()), current_.orphan_grace.count());
  }
  release();
}

}  // namespace muster
