// Drives one Remote for tests/nodes/tunnel_test.py: its argument is a host as JSON, commands are
// JSON lines on its standard input, what happens are JSON lines on its standard output. Ends with
// its input.
//
//   {"do": "open"} {"do": "forward", "port": 0, "socket": PATH} {"do": "run", "command": ...}
//   {"do": "upload", "file": ..., "path": ...} {"do": "serve", "command": ..., "input": ...}
//     one after the other; each ends with {"event": "done", "do": ..., ...} or "error"
//   {"do": "finish", "words": ...} {"do": "cut"} {"do": "status"}     at once
#include <dirent.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>
#include <time.h>

#include <chrono>
#include <condition_variable>
#include <deque>
#include <fstream>
#include <iostream>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>

#include "broker/ssh/remote.hpp"

namespace muster {
namespace {

using Json = nlohmann::json;

Host host_of(const Json& fields) {
  Host host;
  host.address = fields.at("address");
  host.name = fields.value("name", host.address);
  host.user = fields.value("user", "");
  host.port = fields.value("port", std::uint16_t{0});
  host.identity = fields.value("identity", "");
  host.jump = fields.value("jump", "");
  host.known_hosts = fields.value("known_hosts", "");
  host.ssh_config = fields.value("ssh_config", "");
  host.via = fields.value("via", "libssh") == "openssh" ? Via::openssh : Via::libssh;
  host.connect_timeout = std::chrono::seconds(fields.value("connect_timeout", 20));
  return host;
}

int count_entries(const char* folder) {
  int count = 0;
  DIR* open = opendir(folder);
  while (open != nullptr && readdir(open) != nullptr) ++count;
  if (open != nullptr) closedir(open);
  return count;
}

std::uint64_t resident_bytes() {
  std::ifstream file("/proc/self/statm");
  std::uint64_t size = 0;
  std::uint64_t resident = 0;
  file >> size >> resident;
  return resident * 4096;
}

double cpu_seconds() {
  timespec time{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
}

class Driver {
 public:
  explicit Driver(const Host& host) : host_(host), remote_(make_remote(host_, counters_)) {}

  void run() {
    std::thread worker([this] { work(); });
    std::string line;
    while (std::getline(std::cin, line)) take(Json::parse(line));
    remote()->cut();
    push(Json::object({{"do", "end"}}));
    worker.join();
  }

 private:
  std::shared_ptr<Remote> remote() {
    const std::lock_guard lock(mutex_);
    return remote_;
  }

  void take(const Json& order) {
    const std::string what = order.at("do");
    if (what == "cut") {
      remote()->cut();
    } else if (what == "finish") {
      remote()->finish(order.value("words", ""));
    } else if (what == "status") {
      say({{"event", "status"},
           {"bytes_in", counters_.bytes_in.load()},
           {"bytes_out", counters_.bytes_out.load()},
           {"resident", resident_bytes()},
           {"cpu", cpu_seconds()},
           {"descriptors", count_entries("/proc/self/fd")},
           {"threads", count_entries("/proc/self/task") - 2}});
    } else {
      push(order);
    }
  }

  void push(const Json& order) {
    const std::lock_guard lock(mutex_);
    orders_.push_back(order);
    changed_.notify_one();
  }

  Json pop() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return !orders_.empty(); });
    Json order = orders_.front();
    orders_.pop_front();
    return order;
  }

  void work() {
    for (Json order = pop(); order.at("do") != "end"; order = pop()) {
      try {
        Json result = act(order);
        result["event"] = "done";
        result["do"] = order.at("do");
        say(result);
      } catch (const NodeError& error) {
        say({{"event", "error"},
             {"do", order.at("do")},
             {"lasting", error.kind() == NodeError::Kind::lasting},
             {"step", error.step()},
             {"text", error.what()}});
      }
    }
    const std::lock_guard lock(mutex_);
    remote_.reset();
  }

  Json act(const Json& order) {
    const std::string what = order.at("do");
    if (what == "renew") {
      auto fresh = std::shared_ptr<Remote>(make_remote(host_, counters_));
      const std::lock_guard lock(mutex_);
      remote_.swap(fresh);
      return Json::object();
    }
    const auto remote = this->remote();
    if (what == "open") {
      Json steps = Json::array();
      remote->open([&](const std::string& step) { steps.push_back(step); });
      return Json::object({{"steps", steps}});
    }
    if (what == "forward") {
      return Json::object({{"port", remote->forward(order.at("port"), order.at("socket"))}});
    }
    if (what == "run") {
      const CommandOutput output = remote->run(order.at("command"), order.value("input", ""),
                                               std::chrono::seconds(order.value("patience", 60)));
      return Json::object({{"status", output.status},
                           {"output", output.output},
                           {"error_output", output.error_output}});
    }
    if (what == "upload") {
      std::uint64_t last = 0;
      remote->upload(order.at("file").get<std::string>(), order.at("path"),
                     [&](std::uint64_t bytes) { last = bytes; });
      return Json::object({{"progress", last}});
    }
    const int status = remote->serve(
        order.at("command"), order.value("input", ""), [this](std::string_view line, bool error) {
          say({{"event", "line"}, {"text", std::string(line)}, {"error", error}});
        });
    return Json::object({{"status", status}});
  }

  void say(const Json& event) {
    const std::lock_guard lock(output_mutex_);
    std::cout << event.dump(-1, ' ', false, Json::error_handler_t::replace) << std::endl;
  }

  Host host_;
  TunnelCounters counters_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Json> orders_;
  std::shared_ptr<Remote> remote_;
  std::mutex output_mutex_;
};

}  // namespace
}  // namespace muster

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  spdlog::set_default_logger(spdlog::stderr_logger_mt("driver"));
  muster::Driver(muster::host_of(nlohmann::json::parse(argv[1]))).run();
}
