// Runs native functions on machines reached by ssh, for tests/nodes/plugins_test.py:
//
//   native_driver NODES                       in the running broker's pool
//   native_driver NODES HOSTS_FILE PLUGIN     in a pool of its own, which ships the plug-in
//
// Asks for `host_name` until NODES different ones answered; prints them, then the square of 12.
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <iterator>
#include <muster/producer.hpp>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

constexpr std::chrono::seconds kPatience{100};
constexpr int kRound = 50;

void run(int argc, char** argv) {
  if (argc != 2 && argc != 4) throw std::invalid_argument("native_driver NODES [HOSTS PLUGIN]");
  muster::Options options;
  options.connect_timeout = kPatience;
  if (argc == 4) {
    std::ifstream file(argv[2]);
    options.workers = 0;
    options.hosts.assign(std::istreambuf_iterator<char>(file), {});
    options.hosts_origin = argv[2];
    options.plugins = {argv[3]};
  }
  muster::Producer producer(options);
  const std::size_t wanted = std::strtoul(argv[1], nullptr, 10);
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  std::set<std::string> names;
  while (names.size() < wanted) {
    if (std::chrono::steady_clock::now() > deadline) throw std::runtime_error("too few nodes");
    std::vector<muster::Future<std::string>> futures;
    for (int i = 0; i < kRound; ++i) futures.push_back(producer.submit<std::string>("host_name"));
    for (auto& future : futures) names.insert(future.get());
  }
  for (const std::string& name : names) std::printf("%s\n", name.c_str());
  const auto square = producer.submit<std::int64_t>("square", std::int64_t{12}).get();
  std::printf("%lld\n", static_cast<long long>(square));
}

}  // namespace

int main(int argc, char** argv) {
  try {
    run(argc, argv);
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "native_driver: %s\n", error.what());
    return 1;
  }
}
