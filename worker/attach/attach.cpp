#include "worker/attach/attach.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <optional>
#include <stdexcept>
#include <string>

#include "common/system/attach_exit.hpp"
#include "common/system/process_end.hpp"
#include "worker/attach/attach_config.hpp"
#include "worker/attach/attach_spawn.hpp"
#include "worker/attach/attach_streams.hpp"
#include "worker/attach/control.hpp"
#include "worker/system/clock.hpp"

namespace muster {
namespace {

constexpr Duration kConfigPatience = std::chrono::seconds(60);
// From its start until the worker answers: it may have to start Python on a busy machine.
constexpr Duration kAnswerPatience = std::chrono::seconds(30);
constexpr std::chrono::seconds kEndMargin{10};
constexpr Duration kLastWordsPatience = std::chrono::seconds(5);

class Unusable : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// A folder that only we may enter, made with what is above it.
void make_private_folder(const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (error) {
    throw Unusable(
        fmt::format("cannot make the folder {}: {}; is the disk full, or the home "
                    "folder not this user's?",
                    path, error.message()));
  }
  struct stat folder {};
  if (::lstat(path.c_str(), &folder) != 0 || !S_ISDIR(folder.st_mode) ||
      folder.st_uid != ::geteuid()) {
    throw Unusable(path + " is not a folder of this user: remove it");
  }
  if ((folder.st_mode & 077) != 0) ::chmod(path.c_str(), 0700);
}

// Whether it is a worker that an attach started. The first that listened at the control socket was
// that attach: its number may be another process's by now.
bool is_worker(pid_t process) {
  std::ifstream file(fmt::format("/proc/{}/cmdline", process), std::ios::binary);
  std::string word;
  if (!std::getline(file, word, '\0') || !word.ends_with("muster-worker")) return false;
  while (std::getline(file, word, '\0')) {
    if (word == "--control") return true;
  }
  return false;
}

class Attachment {
 public:
  Attachment(std::string json, AttachConfig config)
      : json_(std::move(json)), config_(std::move(config)) {}

  int run(AttachInput& input);

 private:
  void enter_run_folder();
  bool take_lock();
  void clean_up();
  bool lacks_parts() const;
  bool connect();
  bool find();
  void start();
  enum class Answer { ready, replaced, gone, silent };
  Answer ask(const std::string& packet);
  void await_end(Time deadline);
  void kill_silent();
  bool relay(const std::string& packet);
  std::string how_it_ended() const;
  int hold(AttachInput& input);
  int end_only();

  const std::string json_;
  const AttachConfig config_;
  std::string cache_;
  Descriptor lock_;
  Descriptor socket_;
  pid_t child_ = -1;  // the worker, if this process started it
  long worker_pid_ = 0;
  bool taken_ = false;
};

void Attachment::enter_run_folder() {
  const std::string folder = cache_ + "/run/" + config_.pool;
  make_private_folder(folder);
  // Relative names from here: a socket's path has at most 107 bytes.
  if (::chdir(folder.c_str()) != 0) {
    throw Unusable(fmt::format("cannot enter {}: {}", folder, std::strerror(errno)));
  }
}

// Whether it is ours. Not when somebody removed the folder while this process waited.
bool Attachment::take_lock() {
  lock_ = Descriptor(::open("lock", O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!lock_ && errno == ENOENT) return false;
  if (!lock_) {
    throw Unusable(
        fmt::format("cannot write in {}/run/{}: {}", cache_, config_.pool, std::strerror(errno)));
  }
  while (::flock(lock_.get(), LOCK_EX) != 0 && errno == EINTR) {
  }
  struct stat file {};
  return ::fstat(lock_.get(), &file) == 0 && file.st_nlink > 0;
}

// The worker ended as it was told to: nothing of it stays.
void Attachment::clean_up() {
  socket_.reset();
  if (!take_lock()) return;  // somebody was faster
  // Its listening socket may be the last that is closed; if one answers, it is another worker.
  if (connect() && ask("who") != Answer::gone) return;
  for (const char* name : {"control", "pid", "log", "lock"}) ::unlink(name);
  ::rmdir((cache_ + "/run/" + config_.pool).c_str());
}

// What the broker must upload or prepare first.
bool Attachment::lacks_parts() const {
  bool lacking = false;
  for (const std::string& digest : config_.includes) {
    if (::access((cache_ + "/includes/" + digest).c_str(), F_OK) == 0) continue;
    write_line(STDOUT_FILENO, "missing include " + digest);
    lacking = true;
  }
  for (const std::string& plugin : config_.plugins) {
    if (::access((cache_ + "/plugins/" + plugin).c_str(), F_OK) == 0) continue;
    write_line(STDOUT_FILENO, "missing plugin " + plugin);
    lacking = true;
  }
  if (!config_.python_environment.empty() &&
      !read_environment(cache_, config_.python_environment)) {
    write_line(STDOUT_FILENO, "missing environment " + config_.python_environment);
    lacking = true;
  }
  return lacking;
}

bool Attachment::connect() {
  Descriptor socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strcpy(address.sun_path, "control");
  if (::connect(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) {
    return false;  // nobody listens: the worker that made it is gone
  }
  if (!is_own_user(socket.get())) {
    throw Unusable("the control socket in " + cache_ + "/run belongs to another user");
  }
  widen(socket.get());
  socket_ = std::move(socket);
  return true;
}

Attachment::Answer Attachment::ask(const std::string& packet) {
  if (::send(socket_.get(), packet.data(), packet.size(), MSG_NOSIGNAL) < 0) {
    return errno == EMSGSIZE ? throw Unusable(
                                   "the configuration is too long: fewer labels or "
                                   "environment variables for this host")
                             : Answer::gone;
  }
  const Time deadline = steady_now() + kAnswerPatience;
  std::string answer;
  while (readable(socket_.get(), deadline)) {
    const PacketResult result = receive_packet(socket_.get(), answer, 0);
    if (result == PacketResult::end) return Answer::gone;
    if (result == PacketResult::none) continue;
    const bool ready = answer.starts_with("ready ");
    if (ready || answer.starts_with("replaced ")) {
      const char* number = answer.data() + (ready ? 6 : 9);
      std::from_chars(number, answer.data() + answer.size(), worker_pid_);
      return ready ? Answer::ready : Answer::replaced;
    }
    relay(answer);
  }
  return Answer::silent;
}

void Attachment::await_end(Time deadline) {
  std::string packet;
  while (readable(socket_.get(), deadline)) {
    const PacketResult result = receive_packet(socket_.get(), packet, 0);
    if (result == PacketResult::end) return;
    if (result == PacketResult::packet) relay(packet);
  }
  kill_silent();
}

// Its socket lives and it says nothing: nobody else is served by it either.
void Attachment::kill_silent() {
  const pid_t pid = child_ > 0 ? child_ : listener_of(socket_.get());
  // It stays the same process from here on, whatever becomes of its number.
  const Descriptor process(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  pollfd event{socket_.get(), 0, 0};
  if (::poll(&event, 1, 0) > 0) return;  // it is gone
  if (pid <= 1 || !process || !is_worker(pid)) {
    throw Unusable("a worker of this pool lives here and does not answer: end it");
  }
  say(fmt::format("worker {} does not answer and is ended", pid));
  ::syscall(SYS_pidfd_send_signal, process.get(), SIGKILL, nullptr, 0);
  ::poll(&event, 1, 10'000);
}

// Whether a worker was there and fits; after it, `socket_` leads to it.
bool Attachment::find() {
  if (!connect()) return false;
  switch (ask("attach " + json_)) {
    case Answer::ready:
      say(fmt::format("worker {} found", worker_pid_));
      return true;
    case Answer::replaced:
      say(
          fmt::format("worker {} is another one than is wanted: it drains for up to {} s and is "
                      "replaced",
                      worker_pid_, kReplacedDrain.count()));
      await_end(steady_now() + kReplacedDrain + kEndMargin);
      return false;
    case Answer::gone:
      return false;
    case Answer::silent:
      kill_silent();
      return false;
  }
  return false;
}

void Attachment::start() {
  ::unlink("control");
  Descriptor listener(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strcpy(address.sun_path, "control");
  if (::bind(listener.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0 ||
      ::listen(listener.get(), 16) != 0) {
    throw Unusable(fmt::format("cannot make the control socket in {}/run/{}: {}", cache_,
                               config_.pool, std::strerror(errno)));
  }
  // Connected before the worker runs: if it cannot start, this connection ends.
  if (!connect()) throw Unusable("cannot connect to the control socket just made");
  child_ = spawn_worker(config_, cache_, listener.get());
  listener.reset();
  std::ofstream("pid") << child_ << "\n";
  switch (ask("attach " + json_)) {
    case Answer::ready:
      say(fmt::format("worker {} started", worker_pid_));
      return;
    case Answer::silent:
      kill_silent();
      throw Unusable(
          fmt::format("the worker said nothing for {} s after its start",
                      std::chrono::duration_cast<std::chrono::seconds>(kAnswerPatience).count()));
    case Answer::gone:
    case Answer::replaced:
      break;
  }
  // It still writes why.
  how_it_ended();
  throw Unusable("the worker did not start: " + log_tail());
}

// Its socket is closed. Waits for its last words if it is a child of ours.
std::string Attachment::how_it_ended() const {
  if (child_ < 0) return "ended by itself";
  const std::optional<ExitStatus> status = muster::await_end(child_, kLastWordsPatience);
  return status ? describe(*status) : "ended by itself";
}

// One packet of the worker. False: it is over.
bool Attachment::relay(const std::string& packet) {
  if (packet == "taken") taken_ = true;
  if (packet.starts_with("log ")) {
    write_line(STDERR_FILENO, packet.substr(4));
  }
  return !taken_;
}

int Attachment::hold(AttachInput& input) {
  bool ending = false;
  Time deadline = kNever;
  std::string packet;
  while (true) {
    while (const auto line = input.line()) {
      if (!line->starts_with("end ")) continue;
      std::uint64_t seconds = 0;
      std::from_chars(line->data() + 4, line->data() + line->size(), seconds);
      ::send(socket_.get(), line->data(), line->size(), MSG_NOSIGNAL);
      ending = true;
      deadline = steady_now() + std::chrono::seconds(std::min<std::uint64_t>(seconds, 86'400)) +
                 kEndMargin;
    }
    if (!input.open() && !ending) return kAttachEnded;
    std::array<pollfd, 2> events{pollfd{socket_.get(), POLLIN, 0},
                                 pollfd{input.open() ? STDIN_FILENO : -1, POLLIN, 0}};
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - steady_now());
    const int wait =
        deadline == kNever ? -1 : static_cast<int>(std::max<std::int64_t>(0, left.count()));
    if (::poll(events.data(), events.size(), wait) == 0) {
      kill_silent();
      clean_up();
      return kAttachEnded;
    }
    if (events[1].revents != 0) input.read();
    if (events[0].revents == 0) continue;
    const PacketResult result = receive_packet(socket_.get(), packet, 0);
    if (result == PacketResult::packet) relay(packet);
    if (taken_) {
      say("another connection of the pool took the worker over");
      return kAttachTaken;
    }
    if (result != PacketResult::end) continue;
    if (ending) {
      clean_up();
      return kAttachEnded;
    }
    say(fmt::format("worker {} {}; the end of its log: {}", worker_pid_, how_it_ended(),
                    log_tail()));
    return kAttachLostWorker;
  }
}

int Attachment::end_only() {
  if (!connect() || ask("who") != Answer::ready) {
    clean_up();
    return kAttachEnded;
  }
  const std::string packet = fmt::format("end {}", config_.end_seconds.count());
  ::send(socket_.get(), packet.data(), packet.size(), MSG_NOSIGNAL);
  await_end(steady_now() + config_.end_seconds + kEndMargin);
  say(fmt::format("worker {} ended", worker_pid_));
  clean_up();
  return kAttachEnded;
}

int Attachment::run(AttachInput& input) {
  cache_ = cache_folder();
  do {
    enter_run_folder();
  } while (!take_lock());
  if (config_.end_only) return end_only();
  if (config_.version != MUSTER_VERSION) {
    throw Unusable(fmt::format("this muster-worker is version " MUSTER_VERSION
                               ", the broker is {}: install the same version on both",
                               config_.version));
  }
  if (lacks_parts()) return kAttachMissing;
  if (!find()) start();
  lock_.reset();
  if (const auto python = read_environment(cache_, config_.python_environment);
      python && !python->lack.empty()) {
    write_line(STDOUT_FILENO, "lacks " + python->lack);
  }
  write_line(STDOUT_FILENO, fmt::format("ready {}", worker_pid_));
  return hold(input);
}

}  // namespace

int run_attach() {
  ::signal(SIGPIPE, SIG_IGN);
  ::umask(077);
  try {
    AttachInput input;
    const Time deadline = steady_now() + kConfigPatience;
    std::optional<std::string> json;
    while (!(json = input.line()) && input.open() && readable(STDIN_FILENO, deadline)) input.read();
    if (!json) throw Unusable("no configuration came on standard input: it is for brokers to run");
    return Attachment(with_program(*json, own_program()), parse_attach_config(*json)).run(input);
  } catch (const std::exception& error) {
    say(error.what());
    return kAttachUnusable;
  }
}

}  // namespace muster
