// A runner for tests of the executors: its tasks are words of a small language, so that it needs no
// interpreter. `test_runner [--threads N] [--max-result BYTES] [--fail-start]`.
//
// The payload says what to do: see `act` and `speak`. Waiting ones end when they are stopped.
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <muster/runner.hpp>
#include <mutex>
#include <set>
#include <span>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "tests/support/child.hpp"

namespace {

using muster::Blob;
using muster::Bytes;
using muster::RunnerTask;

class Stops {
 public:
  void add(std::uint64_t id) {
    const std::lock_guard lock(mutex_);
    ids_.insert(id);
  }
  bool has(std::uint64_t id) {
    const std::lock_guard lock(mutex_);
    return ids_.count(id) > 0;
  }

 private:
  std::mutex mutex_;
  std::set<std::uint64_t> ids_;
};

class Program {
 public:
  explicit Program(std::uint64_t max_result_bytes)
      : link_(3, {[this](std::uint64_t id) { stops_.add(id); }, max_result_bytes}) {}

  void run(int threads) {
    link_.ready();
    std::vector<std::thread> others;
    for (int i = 1; i < threads; ++i) others.emplace_back([this] { serve(); });
    serve();
  }

 private:
  void serve() {
    while (true) {
      const RunnerTask task = link_.next();
      const std::string text(task.payload.text());
      const std::size_t space = text.find(' ');
      const std::string rest = space == std::string::npos ? "" : text.substr(space + 1);
      try {
        std::vector<Blob> blobs;
        const std::string result = act_on_blobs(task, text.substr(0, space), rest, blobs);
        link_.finish(task.id, Bytes::copy(result), blobs);
      } catch (const std::exception& error) {
        link_.fail(task.id, "exception", error.what(), "the traceback", Bytes::copy("the extra"));
      }
    }
  }

  std::string act_on_blobs(const RunnerTask& task, const std::string& word, const std::string& rest,
                           std::vector<Blob>& blobs) {
    std::string text;
    if (word == "blobs") {  // what they and those of the job hold
      for (const Blob& blob : task.job->blobs) text.append(blob.bytes().text());
      for (const Blob& blob : task.blobs) text.append(blob.bytes().text());
      return text;
    }
    if (word == "give_back") {
      blobs = task.blobs;
      return rest;
    }
    if (word == "make") {  // a blob of these words
      const std::span<const std::byte> part = std::as_bytes(std::span(rest));
      blobs.push_back(link_.make_blob({&part, 1}));
      return std::string(link_.keeps_blobs() ? "keeps " : "") +
             (link_.shares_files() ? "shares" : "");
    }
    if (word == "make_when") {  // that file is there, whether it was stopped or not
      wait(RunnerTask{}, rest);
      const std::span<const std::byte> part = std::as_bytes(std::span(rest));
      blobs.push_back(link_.make_blob({&part, 1}));
      return "";
    }
    if (word == "make_and_fail") {
      const std::span<const std::byte> part = std::as_bytes(std::span(rest));
      const Blob blob = link_.make_blob({&part, 1});
      throw std::runtime_error(rest);
    }
    if (word == "make_and_crash") {
      const std::span<const std::byte> part = std::as_bytes(std::span(rest));
      const Blob blob = link_.make_blob({&part, 1});
      return speak(task, "crash", rest);
    }
    if (word == "size") return std::to_string(task.payload.size());
    if (word == "read_and_wait") {  // every page of the blobs stays mapped
      std::size_t sum = 0;
      for (const Blob& blob : task.blobs) {
        const std::span<const std::byte> content = blob.bytes().span();
        for (std::size_t i = 0; i < content.size(); i += 4096) {
          sum += std::to_integer<std::size_t>(content[i]);
        }
      }
      std::ofstream(rest + "/reading") << sum;
      return wait(task, rest + "/go");
    }
    return act(task, word, rest);
  }

  std::string act(const RunnerTask& task, const std::string& word, const std::string& rest) {
    if (word == "echo") return rest;
    if (word == "body") return std::string(task.job->body.text());
    if (word == "key") return std::to_string(task.job->key);
    if (word == "pid") return std::to_string(::getpid());
    if (word == "attempt") return std::to_string(task.attempt);
    if (word == "forgotten") return forgotten(rest);
    if (word == "environment") return std::getenv(rest.c_str());
    if (word == "big") return std::string(std::stoul(rest), 'b');
    if (word == "fail") throw std::runtime_error(rest);
    if (word == "grow") {  // takes so many megabytes, and keeps them
      const std::vector<char> taken(std::stoul(rest) << 20, 'x');
      return wait(task, "") + taken.back();
    }
    if (word == "wait") return wait(task, "");
    if (word == "hold") {
      std::ofstream(rest) << ::getpid() << '\n';
      return wait(task, "");
    }
    if (word == "wait_for") return wait(task, rest);
    if (word == "block") return wait(RunnerTask{}, rest);
    return speak(task, word, rest);
  }

  std::string speak(const RunnerTask& task, const std::string& word, const std::string& rest) {
    if (word == "print") std::printf("%s\n", rest.c_str());
    if (word == "print_unended") std::printf("%s", rest.c_str());
    if (word == "complain") std::fprintf(stderr, "%s\n", rest.c_str());
    if (word == "say") link_.say(task.id, 2, 20, "logger", rest);
    if (word == "say_and_wait") {
      link_.say(task.id, 2, 20, "logger", rest);
      return wait(task, "");
    }
    if (word == "flood") {
      for (int i = 0; i < std::stoi(rest); ++i) link_.say(task.id, 0, 0, "", std::to_string(i));
    }
    if (word == "print_many") {
      for (int i = 0; i < std::stoi(rest); ++i) std::printf("%d\n", i);
    }
    if (word == "crash") {
      std::fprintf(stderr, "%s\n", rest.c_str());
      ::signal(SIGSEGV, SIG_DFL);  // a sanitizer would catch it
      ::raise(SIGSEGV);
    }
    if (word == "exit") ::_exit(std::stoi(rest));
    if (word == "close_link") ::close(3);
    std::fflush(stdout);
    return "";
  }

  // Ends when the file is there, or when the task was stopped.
  std::string wait(const RunnerTask& task, const std::string& file) {
    return muster::testing::wait_until([&] {
      return stops_.has(task.id) || (!file.empty() && std::filesystem::exists(file));
    })
               ? "ended"
               : "waited in vain";
  }

  // Waits until the link was told to forget so many jobs.
  std::string forgotten(const std::string& count) {
    const std::lock_guard lock(mutex_);
    muster::testing::wait_until([&] {
      for (const std::uint64_t key : link_.forgotten()) forgotten_ += std::to_string(key) + " ";
      return std::count(forgotten_.begin(), forgotten_.end(), ' ') >= std::stoi(count);
    });
    return forgotten_;
  }

  Stops stops_;
  std::mutex mutex_;
  std::string forgotten_;
  muster::RunnerLink link_;
};

}  // namespace

int main(int argument_count, char** arguments) {
  std::map<std::string, std::string> options = {{"--threads", "1"}, {"--max-result", "1000000"}};
  for (int i = 1; i + 1 < argument_count; i += 2) options[arguments[i]] = arguments[i + 1];
  if (options.count("--fail-start") > 0) {
    std::fprintf(stderr, "no module named %s\n", options["--fail-start"].c_str());
    return 1;
  }
  static Program program(std::stoul(options["--max-result"]));
  program.run(std::stoi(options["--threads"]));
  return 0;
}
