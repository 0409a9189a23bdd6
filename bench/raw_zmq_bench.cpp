// The limit that Muster is measured against: ZeroMQ alone, doing what a queue has to do at least.
//
//   producer (DEALER) -> forwarder (ROUTER | ROUTER) -> worker (DEALER), which echoes
//
// in three processes over ipc. No scheduling, no codec, no acknowledgement, nothing kept. The
// program runs itself again for the forwarder and the worker (--role); the producer measures.

#include <signal.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <string>
#include <vector>
#include <zmq.hpp>

#include "bench/child_process.hpp"

namespace {

using muster::bench::ChildProcess;
using Clock = std::chrono::steady_clock;
using Seconds = std::chrono::duration<double>;

constexpr size_t kTaskBytes = 64;
constexpr size_t kTasksPerMessage = 100;
constexpr size_t kHeaderBytes = 64;
// Messages that one side of the forwarder may take before the other side gets its turn.
constexpr int kBurstMessages = 64;
// A dead child shows as silence; nothing measured here takes this long.
constexpr auto kSilenceLimit = std::chrono::seconds(30);

struct Options {
  std::string mode;
  std::string role;
  std::string directory;
  pid_t parent = 0;
  size_t size_bytes = 1'000'000;
  size_t window_messages = 0;  // 0: the default of the mode
  double seconds = 2;
  bool json = false;
};

struct Figure {
  const char* name;
  double value;
  const char* unit;
};

volatile sig_atomic_t interrupted = 0;

std::string endpoint(const std::string& directory, const char* side) {
  return "ipc://" + directory + "/" + side;
}

zmq::socket_t make_socket(zmq::context_t& context, zmq::socket_type type) {
  zmq::socket_t socket(context, type);
  socket.set(zmq::sockopt::linger, 0);
  // The producer's window bounds the queues.
  socket.set(zmq::sockopt::sndhwm, 0);
  socket.set(zmq::sockopt::rcvhwm, 0);
  return socket;
}

// ---- forwarder and worker

// Passes the rest of the message that `from` is in the middle of, by reference.
void pass_frames(zmq::socket_t& from, zmq::socket_t& to) {
  zmq::message_t frame;
  bool more = true;
  while (more) {
    (void)from.recv(frame);
    more = frame.more();
    to.send(frame, more ? zmq::send_flags::sndmore : zmq::send_flags::none);
  }
}

[[noreturn]] void run_forwarder(const std::string& directory) {
  zmq::context_t context;
  zmq::socket_t clients = make_socket(context, zmq::socket_type::router);
  zmq::socket_t workers = make_socket(context, zmq::socket_type::router);
  // Not so for clients: one that has what it wanted may leave answers behind.
  workers.set(zmq::sockopt::router_mandatory, true);
  clients.bind(endpoint(directory, "clients"));
  workers.bind(endpoint(directory, "workers"));

  zmq::message_t worker;
  zmq::message_t frame;
  (void)workers.recv(worker);
  (void)workers.recv(frame);  // the announcement

  std::vector<zmq::pollitem_t> items{{clients.handle(), 0, ZMQ_POLLIN, 0},
                                     {workers.handle(), 0, ZMQ_POLLIN, 0}};
  while (true) {
    zmq::poll(items, std::chrono::milliseconds(-1));
    for (int i = 0; i < kBurstMessages && clients.recv(frame, zmq::recv_flags::dontwait); ++i) {
      zmq::message_t to;
      to.copy(worker);
      workers.send(to, zmq::send_flags::sndmore);
      workers.send(frame, zmq::send_flags::sndmore);  // the client's identity
      pass_frames(clients, workers);
    }
    for (int i = 0; i < kBurstMessages && workers.recv(frame, zmq::recv_flags::dontwait); ++i) {
      pass_frames(workers, clients);
    }
  }
}

[[noreturn]] void run_worker(const std::string& directory) {
  zmq::context_t context;
  zmq::socket_t socket = make_socket(context, zmq::socket_type::dealer);
  socket.connect(endpoint(directory, "workers"));
  socket.send(zmq::str_buffer("ready"));
  while (true) pass_frames(socket, socket);
}

// ---- producer

// One message of `payload`; `header` makes the payload a frame of its own behind a small one.
struct Shape {
  std::vector<char> payload;
  bool header = false;
  bool copy = true;  // false: send the buffer itself, as a client with large data would
};

class Producer {
 public:
  Producer(const std::string& directory, Shape shape)
      : shape_(std::move(shape)), socket_(make_socket(context_, zmq::socket_type::dealer)) {
    socket_.set(zmq::sockopt::rcvtimeo,
                static_cast<int>(std::chrono::milliseconds(kSilenceLimit).count()));
    socket_.connect(endpoint(directory, "clients"));
  }

  void send() {
    if (shape_.header) {
      socket_.send(zmq::buffer(header_), zmq::send_flags::sndmore);
    }
    if (shape_.copy) {
      socket_.send(zmq::buffer(shape_.payload));
    } else {
      zmq::message_t message(shape_.payload.data(), shape_.payload.size(), [](void*, void*) {});
      socket_.send(message, zmq::send_flags::none);
    }
    ++in_flight_;
  }

  // Returns false when `flags` forbid waiting and nothing is there.
  bool receive(zmq::recv_flags flags) {
    if (interrupted) throw std::runtime_error("interrupted");
    if (!socket_.recv(answer_, flags)) {
      if (flags == zmq::recv_flags::dontwait) return false;
      throw std::runtime_error("no answer: has the forwarder or the worker died?");
    }
    if (shape_.header) (void)socket_.recv(answer_);
    if (answer_.more() || answer_.size() != shape_.payload.size()) {
      throw std::runtime_error("the answer is not what was sent");
    }
    --in_flight_;
    return true;
  }

  // Keeps `window` messages in flight for `duration`; returns the number of answers and corrects
  // `duration` to the time of the last one.
  uint64_t stream(size_t window, Seconds& duration) {
    const Clock::time_point start = Clock::now();
    const Seconds wanted = duration;
    uint64_t answers = 0;
    do {
      while (in_flight_ < window) send();
      receive(zmq::recv_flags::none);
      ++answers;
      while (in_flight_ > 0 && receive(zmq::recv_flags::dontwait)) ++answers;
      duration = Clock::now() - start;
    } while (duration < wanted);
    return answers;
  }

 private:
  Shape shape_;
  std::vector<char> header_ = std::vector<char>(kHeaderBytes, 'h');
  zmq::context_t context_;
  zmq::socket_t socket_;
  zmq::message_t answer_;
  size_t in_flight_ = 0;
};

Seconds warm_up_of(const Options& options) { return Seconds(std::min(0.3, options.seconds / 4)); }

std::vector<Figure> measure_throughput(const Options& options, const std::vector<pid_t>& children) {
  const auto cpu_of_all = [&] {
    std::chrono::nanoseconds sum = muster::bench::cpu_time(0);
    for (const pid_t child : children) sum += muster::bench::cpu_time(child);
    return sum;
  };
  const size_t window = options.window_messages != 0 ? options.window_messages : 64;
  Producer producer(options.directory,
                    {.payload = std::vector<char>(kTaskBytes * kTasksPerMessage, 't')});
  Seconds duration = warm_up_of(options);
  producer.stream(window, duration);
  duration = Seconds(options.seconds);
  const std::chrono::nanoseconds cpu_before = cpu_of_all();
  const uint64_t messages = producer.stream(window, duration);
  const std::chrono::duration<double, std::micro> cpu = cpu_of_all() - cpu_before;
  const double tasks = static_cast<double>(messages * kTasksPerMessage);
  return {{"tasks_per_second", tasks / duration.count(), "tasks/s"},
          {"cpu_us_per_task", cpu.count() / tasks, "us"}};
}

std::vector<Figure> measure_round_trip(const Options& options) {
  Producer producer(options.directory, {.payload = std::vector<char>(kTaskBytes, 't')});
  Seconds warm_up = warm_up_of(options);
  producer.stream(1, warm_up);
  std::vector<double> microseconds;
  const Clock::time_point end =
      Clock::now() + std::chrono::duration_cast<Clock::duration>(Seconds(options.seconds));
  for (Clock::time_point before = Clock::now(); before < end;) {
    producer.send();
    producer.receive(zmq::recv_flags::none);
    const Clock::time_point after = Clock::now();
    microseconds.push_back(std::chrono::duration<double, std::micro>(after - before).count());
    before = after;
  }
  std::sort(microseconds.begin(), microseconds.end());
  const auto percentile = [&](size_t percent) {
    return microseconds.at((microseconds.size() - 1) * percent / 100);
  };
  return {{"p50_us", percentile(50), "us"}, {"p99_us", percentile(99), "us"}};
}

std::vector<Figure> measure_echo(const Options& options) {
  const size_t window = options.window_messages != 0 ? options.window_messages : 4;
  Producer producer(
      options.directory,
      {.payload = std::vector<char>(options.size_bytes, 'p'), .header = true, .copy = false});
  Seconds duration = warm_up_of(options);
  producer.stream(window, duration);
  duration = Seconds(options.seconds);
  const uint64_t messages = producer.stream(window, duration);
  const double bytes = static_cast<double>(messages) * static_cast<double>(options.size_bytes);
  return {{"megabytes_per_second", bytes / 1e6 / duration.count(), "MB/s"}};
}

void run_producer(Options options) {
  const muster::bench::TemporaryDirectory directory;
  options.directory = directory.path().string();
  const auto arguments = [&](const std::string& role) {
    return std::vector<std::string>{options.mode,
                                    "--role",
                                    role,
                                    "--directory",
                                    options.directory,
                                    "--parent",
                                    std::to_string(getpid())};
  };
  const ChildProcess forwarder("/proc/self/exe", arguments("forwarder"));
  const ChildProcess worker("/proc/self/exe", arguments("worker"));
  std::vector<Figure> figures;
  if (options.mode == "throughput") {
    figures = measure_throughput(options, {forwarder.pid(), worker.pid()});
  } else if (options.mode == "round_trip") {
    figures = measure_round_trip(options);
  } else {
    figures = measure_echo(options);
  }
  for (const Figure& figure : figures) {
    std::printf(
        options.json ? "{\"figure\":\"%s\",\"value\":%.4f,\"unit\":\"%s\"}\n" : "%-22s %14.4f %s\n",
        figure.name, figure.value, figure.unit);
  }
}

int run(int argc, char** argv) {
  Options options;
  CLI::App app(
      "Raw ZeroMQ in the shape of a work queue: the limit that Muster is measured against");
  app.add_option("mode", options.mode, "throughput, round_trip or echo")
      ->required()
      ->check(CLI::IsMember({"throughput", "round_trip", "echo"}));
  app.add_option("--size", options.size_bytes, "echo: bytes of one payload")
      ->check(CLI::Range(size_t{1}, size_t{1} << 30))
      ->capture_default_str();
  app.add_option("--window", options.window_messages,
                 "messages in flight (default: throughput 64, echo 4; round_trip has one)");
  app.add_option("--seconds", options.seconds, "how long to measure, after a short warm-up")
      ->check(CLI::Range(0.01, 3600.0))
      ->capture_default_str();
  app.add_flag("--json", options.json, "one JSON object per figure");
  app.add_option("--role", options.role)->group("");
  app.add_option("--directory", options.directory)->group("");
  app.add_option("--parent", options.parent)->group("");
  CLI11_PARSE(app, argc, argv);
  if (!options.role.empty()) {
    muster::bench::die_with_parent(options.parent);
    if (options.role == "forwarder") run_forwarder(options.directory);
    run_worker(options.directory);  // neither returns
  }
  // Without SA_RESTART: a waiting call ends, and the destructors clean up.
  struct sigaction action = {};
  action.sa_handler = [](int) { interrupted = 1; };
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
  run_producer(options);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "raw_zmq_bench: %s\n", error.what());
    return 2;
  }
}
