// muster-runner: a child of muster-worker that runs tasks.
#include <signal.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <string>
#include <vector>

#include "common/protocol/limits.hpp"
#include "worker/runner/runner.hpp"

namespace {

constexpr int kLink = 3;
constexpr int kUnusable = 2;

}  // namespace

int main(int argument_count, char** arguments) {
  std::vector<std::string> plugins;
  CLI::App app;
  app.description(
      "A part of muster-worker, which starts one for each slot. Not for people: start "
      "muster-worker instead.");
  app.add_option("--plugin", plugins, "A shared library of native functions")->type_name("FILE");
  std::uint64_t max_result_bytes = muster::limits::kMaxResultBytes;
  app.add_option("--max-result", max_result_bytes, "The largest result of a function, in bytes");
  CLI11_PARSE(app, argument_count, arguments);
  // Line by line: the worker reads what tasks print.
  std::setvbuf(stdout, nullptr, _IOLBF, BUFSIZ);
  ::signal(SIGPIPE, SIG_IGN);
  try {
    muster::FunctionRegistry functions(max_result_bytes);
    for (const std::string& plugin : plugins) functions.load(plugin);
    muster::RunnerLink link(kLink, {});
    muster::run_native_tasks(link, functions);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "muster-runner: %s\n", error.what());
    return kUnusable;
  }
}
