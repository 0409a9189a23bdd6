// The broker and worker that a benchmark measures: processes of their own, as in real use, started
// from the directory of the benchmark program. Owned by `main` of a benchmark; one thread.
#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <filesystem>
#include <muster/producer.hpp>
#include <optional>
#include <stdexcept>
#include <string>
#include <system_error>
#include <vector>

#include "bench/child_process.hpp"

namespace muster::bench {

// A pipe whose read end children inherit: they end when this process does, however that happens.
class Lifeline {
 public:
  Lifeline() {
    if (pipe2(ends_, O_CLOEXEC) != 0 || fcntl(ends_[0], F_SETFD, 0) != 0) {
      throw std::system_error(errno, std::generic_category(), "cannot make a pipe");
    }
  }
  ~Lifeline() {
    close(ends_[0]);
    close(ends_[1]);
  }
  Lifeline(const Lifeline&) = delete;
  Lifeline& operator=(const Lifeline&) = delete;

  [[nodiscard]] std::vector<std::string> arguments() const {
    return {"--lifeline", std::to_string(ends_[0])};
  }

 private:
  int ends_[2] = {-1, -1};
};

// A broker that listens in a directory of its own.
class MusterBroker {
 public:
  explicit MusterBroker(std::vector<std::string> more = {})
      : process_(program("muster-broker"), with(std::move(more))) {}

  [[nodiscard]] std::string endpoint() const {
    return "ipc://" + (directory_.path() / "broker").string();
  }
  [[nodiscard]] pid_t pid() const { return process_.pid(); }
  [[nodiscard]] const Lifeline& lifeline() const { return lifeline_; }

  static std::string program(const std::string& name) {
    return (std::filesystem::read_symlink("/proc/self/exe").parent_path() / name).string();
  }

 private:
  std::vector<std::string> with(std::vector<std::string> more) const {
    for (const std::string& word : lifeline_.arguments()) more.push_back(word);
    for (const char* word : {"--log-level", "error", "--listen"}) more.emplace_back(word);
    more.push_back(endpoint());
    return more;
  }

  TemporaryDirectory directory_;
  Lifeline lifeline_;
  ChildProcess process_;
};

// A broker and one worker with two slots and the functions of bench/plugins.
class MusterPool {
 public:
  explicit MusterPool(const std::string& executor)
      : worker_(MusterBroker::program("muster-worker"), worker_arguments(executor)) {}

  // The measuring program's own connection; blocks until the worker is there.
  [[nodiscard]] Options options() const {
    Options options;
    options.endpoint = broker_.endpoint();
    return options;
  }
  static void wait_for_worker(Producer& producer) {
    if (!producer.wait_for_slots(kSlots, std::chrono::seconds(20))) {
      throw std::runtime_error("no worker has connected after 20 s");
    }
  }
  // CPU time of broker, worker and this process.
  [[nodiscard]] std::chrono::nanoseconds cpu() const {
    return cpu_time(0) + cpu_time(broker_.pid()) + cpu_time(worker_.pid());
  }

 private:
  static constexpr unsigned kSlots = 2;

  std::vector<std::string> worker_arguments(const std::string& executor) const {
    std::vector<std::string> words = broker_.lifeline().arguments();
    for (const std::string& word :
         {std::string("--connect"), broker_.endpoint(), std::string("--slots"),
          std::to_string(kSlots), std::string("--executor"), executor, std::string("--plugin"),
          std::string(MUSTER_PLUGIN_DIR "/bench_tasks.so"), std::string("--log-level"),
          std::string("error")}) {
      words.push_back(word);
    }
    return words;
  }

  MusterBroker broker_;
  ChildProcess worker_;
};

}  // namespace muster::bench
