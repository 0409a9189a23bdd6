// Functions for the tests of workers: small ones, slow ones, and every way to go wrong.
#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <muster/task.hpp>
#include <stdexcept>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

namespace {

void wait_for(std::int64_t milliseconds, const muster::TaskContext& context) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(milliseconds);
  while (std::chrono::steady_clock::now() < end && !context.stop_requested()) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

// As a wild pointer would; a sanitizer that handles the signal must not make it another end.
void crash() {
  ::signal(SIGSEGV, SIG_DFL);
  ::raise(SIGSEGV);
}

}  // namespace

MUSTER_PLUGIN(registry) {
  registry.add_raw(
      "noop", [](const muster::Bytes&, const muster::TaskContext&) { return muster::Bytes(); });
  registry.add_raw(
      "echo", [](const muster::Bytes& payload, const muster::TaskContext&) { return payload; });
  registry.add("add", [](std::int64_t left, std::int64_t right) { return left + right; });
  registry.add("square", [](std::int64_t number) { return number * number; });
  registry.add("attempt", [](const muster::TaskContext& context) { return context.attempt(); });
  registry.add("host_name", [] {
    char name[256] = "";
    ::gethostname(name, sizeof name - 1);
    return std::string(name);
  });
  registry.add("process_id", [] { return static_cast<std::int64_t>(::getpid()); });

  registry.add("fail", [](const std::string& text) { throw std::runtime_error(text); });
  registry.add("fail_oddly", [] { throw 42; });
  registry.add("crash", [] { crash(); });
  registry.add("abort", [] { std::abort(); });
  registry.add("exit_status", [](int status) { ::_exit(status); });
  registry.add("print_stderr",
               [](const std::string& text) { std::fprintf(stderr, "%s\n", text.c_str()); });
  registry.add("print_and_crash", [](const std::string& text) {
    std::fprintf(stderr, "%s\n", text.c_str());
    crash();
  });
  registry.add("print_stdout", [](const std::string& text) { std::puts(text.c_str()); });

  registry.add("sleep_ms", [](const muster::TaskContext& context, std::int64_t milliseconds) {
    wait_for(milliseconds, context);
    return milliseconds;
  });
  registry.add("spin_until_stop",
               [](const muster::TaskContext& context) { wait_for(60'000, context); });
  // Appends `number` to the file `folder`/starts and waits until `folder`/go exists.
  registry.add("start_and_wait", [](const muster::TaskContext& context, const std::string& folder,
                                    std::int64_t number) {
    std::ofstream(folder + "/starts", std::ios::app) << std::to_string(number) + "\n";
    while (!std::filesystem::exists(folder + "/go") && !context.stop_requested()) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return number;
  });
  registry.add("start_forever", [] { std::this_thread::sleep_for(std::chrono::hours(1)); });
  registry.add("sum_of", [](const muster::Blob& numbers) {
    double sum = 0;
    for (const double number : numbers.as<double>()) sum += number;
    return sum;
  });
  registry.add("sizes_of", [](const std::vector<muster::Blob>& blobs,
                              const std::map<std::string, muster::Blob>& named) {
    std::vector<std::uint64_t> sizes;
    for (const muster::Blob& blob : blobs) sizes.push_back(blob.size());
    for (const auto& [name, blob] : named) sizes.push_back(blob.size());
    return sizes;
  });
  registry.add("doubled", [](const muster::TaskContext& context, const muster::Blob& numbers) {
    std::vector<double> result;
    for (const double number : numbers.as<double>()) result.push_back(2 * number);
    return std::make_tuple(result.size(), context.make_blob(result));
  });
  registry.add("same", [](const muster::Blob& blob) { return std::vector{blob, blob}; });
  registry.add("wrong_view", [](const muster::Blob& blob) { return blob.as<double>().size(); });
  registry.add_raw("raw_blobs",
                   [](const muster::Bytes& payload, const muster::TaskContext& context) {
                     for (const muster::Blob& blob : context.blobs()) context.attach(blob);
                     return payload;
                   });
  registry.add("big_result", [](std::uint64_t size_bytes) { return std::string(size_bytes, 'x'); });
}
