#include "broker/door/authenticator.hpp"

#include <fmt/format.h>
#include <poll.h>
#include <spdlog/spdlog.h>
#include <sys/eventfd.h>
#include <zmq.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <map>
#include <mutex>
#include <set>
#include <string_view>
#include <thread>
#include <utility>
#include <zmq.hpp>

#include "broker/door/log_limit.hpp"
#include "common/net/key_file.hpp"
#include "common/net/secret.hpp"
#include "common/printable.hpp"
#include "common/system/descriptor.hpp"

namespace muster {
namespace {

constexpr const char* kHandlerEndpoint = "inproc://zeromq.zap.01";
constexpr std::string_view kVersion = "1.0";
constexpr std::size_t kMaxLoginBytes = 255;  // PLAIN says each length in one byte
constexpr std::size_t kMaxRequestFrames = 8;
constexpr std::chrono::seconds kTestPatience{20};

std::string to_z85(std::string_view key) {
  std::array<char, 41> text{};
  if (key.size() != 32) return "";
  zmq_z85_encode(text.data(), reinterpret_cast<const std::uint8_t*>(key.data()), key.size());
  return text.data();
}

struct Verdict {
  std::string user;    // empty: refused
  std::string reason;  // for the log; holds no secret
};

}  // namespace

struct Authenticator::State {
  explicit State(TransportContext& context)
      : socket(context.native(), zmq::socket_type::rep), stop(eventfd(0, EFD_CLOEXEC)) {}

  void serve();
  bool answer();
  Verdict judge(const std::vector<std::string>& request) const;
  Verdict judge_plain(const std::string& user, const std::string& password) const;
  Verdict judge_curve(const std::string& key) const;
  void count_refusal(const std::string& address, const std::string& reason);

  struct Login {
    std::string password;
    std::string proof;
    std::string public_key;
  };
  mutable std::mutex mutex;
  std::map<std::string, Login> logins;      // by user
  std::map<std::string, std::string> keys;  // user by public key, Z85
  std::atomic<std::uint64_t> refused{0};
  std::atomic<std::uint64_t> tested{0};  // refused while the self-test ran
  std::atomic<bool> testing{false};

  zmq::socket_t socket;  // the thread's, once that runs
  Descriptor stop;
  std::thread thread;
};

// Whatever ends this thread ends the handler: its endpoint is gone with the socket, and the Routers
// admit nobody without one.
void Authenticator::State::serve() {
  try {
    while (true) {
      std::array<zmq_pollitem_t, 2> items = {zmq_pollitem_t{socket.handle(), 0, ZMQ_POLLIN, 0},
                                             zmq_pollitem_t{nullptr, stop.get(), ZMQ_POLLIN, 0}};
      if (zmq_poll(items.data(), items.size(), -1) < 0 && zmq_errno() != EINTR) break;
      if (items[1].revents != 0) break;
      while (answer()) {
      }
    }
  } catch (const std::exception& error) {
    spdlog::error("authentication has ended, nobody new is admitted: {}; start the broker again",
                  error.what());
  }
  socket.close();
}

// Answers one request (ZeroMQ RFC 27); false: none waits.
bool Authenticator::State::answer() {
  std::vector<std::string> request;
  bool more = true;
  while (more) {
    zmq::message_t frame;
    if (!socket.recv(frame, zmq::recv_flags::dontwait)) return false;
    more = frame.more();
    if (request.size() <= kMaxRequestFrames) request.push_back(frame.to_string());
  }
  const Verdict verdict = judge(request);
  const bool good = !verdict.user.empty();
  if (!good) count_refusal(request.size() > 3 ? request[3] : "", verdict.reason);
  const std::array<std::string_view, 6> reply = {
      kVersion,
      request.size() > 1 ? std::string_view(request[1]) : std::string_view(),
      good ? "200" : "400",
      good ? "OK" : "refused",
      verdict.user,
      ""};
  for (std::size_t i = 0; i < reply.size(); ++i) {
    const bool last = i + 1 == reply.size();
    socket.send(zmq::const_buffer(reply[i].data(), reply[i].size()),
                last ? zmq::send_flags::none : zmq::send_flags::sndmore);
  }
  return true;
}

// Frames: version, request id, domain, address, routing id, mechanism, credentials.
Verdict Authenticator::State::judge(const std::vector<std::string>& request) const {
  if (request.size() < 6 || request[0] != kVersion) return {"", "a malformed request"};
  const std::string& mechanism = request[5];
  if (mechanism == "PLAIN" && request.size() == 8) return judge_plain(request[6], request[7]);
  if (mechanism == "CURVE" && request.size() == 7) return judge_curve(request[6]);
  return {"", "no login"};
}

Verdict Authenticator::State::judge_plain(const std::string& user,
                                          const std::string& password) const {
  const std::lock_guard lock(mutex);
  const auto found = logins.find(user);
  if (!same_secret(password, found == logins.end() ? "" : found->second.password)) {
    return {"", found == logins.end() ? "unknown user" : "wrong password of " + user};
  }
  return {user, ""};
}

Verdict Authenticator::State::judge_curve(const std::string& key) const {
  const std::string text = to_z85(key);
  const std::lock_guard lock(mutex);
  const auto found = keys.find(text);
  if (found != keys.end()) return {found->second, ""};
  for (const auto& [user, login] : logins) {
    if (!text.empty() && login.public_key == text) return {user, ""};
  }
  return {"", fmt::format("the public key {} is not authorized", text)};
}

void Authenticator::State::count_refusal(const std::string& address, const std::string& reason) {
  if (testing) {
    ++tested;
    return;
  }
  const std::uint64_t count = ++refused;
  if (!is_worth_a_line(count)) return;
  spdlog::warn("refused a connection{}: {} ({} refused so far)",
               address.empty() ? "" : " from " + printable_line(address), printable_line(reason),
               count);
}

Authenticator::Authenticator(TransportContext& context) : state_(std::make_unique<State>(context)) {
  state_->socket.set(zmq::sockopt::linger, 0);
  try {
    state_->socket.bind(kHandlerEndpoint);
  } catch (const zmq::error_t& error) {
    throw TransportError(fmt::format("cannot start authentication: {}", error.what()));
  }
  state_->thread = std::thread([state = state_.get()] { state->serve(); });
}

Authenticator::~Authenticator() {
  eventfd_write(state_->stop.get(), 1);
  state_->thread.join();
}

void Authenticator::allow(const std::string& user, const std::string& password,
                          const std::string& proof, const std::string& public_key) {
  const auto fits = [](const std::string& text) {
    return !text.empty() && text.size() <= kMaxLoginBytes;
  };
  if (!fits(user) || !fits(password)) {
    throw TransportError(
        fmt::format("the login of '{}' does not fit: user and password have 1 to {} bytes", user,
                    kMaxLoginBytes));
  }
  if (!public_key.empty() && !is_key(public_key)) {
    throw TransportError(
        fmt::format("the public key of '{}' is not a Z85 text of 40 characters", user));
  }
  const std::lock_guard lock(state_->mutex);
  state_->logins[user] = {password, proof, public_key};
}

void Authenticator::revoke(const std::string& user) {
  const std::lock_guard lock(state_->mutex);
  state_->logins.erase(user);
}

std::string Authenticator::proof(const std::string& user) const {
  const std::lock_guard lock(state_->mutex);
  const auto found = state_->logins.find(user);
  return found == state_->logins.end() ? "" : found->second.proof;
}

bool Authenticator::admits(const std::string& user) const {
  const std::lock_guard lock(state_->mutex);
  return state_->logins.count(user) != 0 ||
         std::any_of(state_->keys.begin(), state_->keys.end(),
                     [&user](const auto& key) { return key.second == user; });
}

std::vector<std::string> Authenticator::allow_keys(const std::vector<Key>& keys) {
  std::map<std::string, std::string> by_key;
  for (const Key& key : keys) {
    if (key.user.empty() || !is_key(key.public_key)) {
      throw TransportError(
          fmt::format("the public key of '{}' is not a Z85 text of 40 characters", key.user));
    }
    by_key[key.public_key] = key.user;
  }
  const std::lock_guard lock(state_->mutex);
  std::set<std::string> gone;
  for (const auto& [key, user] : std::exchange(state_->keys, by_key)) {
    const auto found = by_key.find(key);
    if (found == by_key.end() || found->second != user) gone.insert(user);
  }
  return {gone.begin(), gone.end()};
}

std::uint64_t Authenticator::refused() const { return state_->refused; }

void Authenticator::self_test(TransportContext& context, const std::string& endpoint,
                              Security security, const std::string& server_key) {
  const KeyPair stranger = make_key_pair("nobody");
  Login login = PlainLogin{"nobody", stranger.secret_key, security == Security::trusted};
  if (security == Security::curve) {
    login = CurveLogin{server_key, stranger.public_key, stranger.secret_key};
  }
  const std::uint64_t before = state_->tested;
  state_->testing = true;
  Dealer dealer(context, endpoint, login);
  const auto deadline = std::chrono::steady_clock::now() + kTestPatience;
  bool refused = false;
  while (!refused && std::chrono::steady_clock::now() < deadline) {
    if (dealer.take_connected()) {
      throw TransportError(fmt::format(
          "'{}' admits a wrong login: this libzmq does not authenticate; install libzmq 4.3.4 or "
          "later",
          endpoint));
    }
    refused = dealer.take_refused() && state_->tested > before;
    pollfd monitor{dealer.monitor_descriptor(), POLLIN, 0};
    if (!refused) poll(&monitor, 1, 100);
  }
  state_->testing = false;
  if (refused) return;
  throw TransportError(fmt::format(
      "'{}' does not answer a login within {} s: nobody could connect; is the machine overloaded?",
      endpoint, kTestPatience.count()));
}

}  // namespace muster
