#include "producer/cli/status.hpp"

#include <unistd.h>

#include <csignal>
#include <muster/producer.hpp>
#include <stdexcept>

#include "producer/cli/run/run_loop.hpp"
#include "producer/cli/status_table.hpp"
#include "producer/cli/terminal/output.hpp"

namespace muster {

int print_status(const std::string& endpoint, bool json) {
  if (endpoint.empty()) {
    throw std::runtime_error(
        "no broker of yours runs; `muster up HOST` starts one, or name one: --broker ipc:///path");
  }
  Options options;
  options.endpoint = endpoint;
  options.label = "muster status";
  Producer producer(options);
  const std::string text = producer.status().json;
  ::signal(SIGPIPE, SIG_IGN);
  OutputFile out(STDOUT_FILENO);
  out.write(json ? text + "\n" : status_table(text));
  out.flush();
  return output_status(out.error());
}

}  // namespace muster
