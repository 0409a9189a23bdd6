// The limit for bulk data: ZeroMQ alone over plain TCP, in chunks as large as those of blobs.
//
//   raw_bulk_bench --listen tcp://10.0.0.1:PORT --megabytes 4096     sends what is in its memory
//   raw_bulk_bench --connect tcp://10.0.0.1:PORT --megabytes 4096    receives, and prints the speed
#include <CLI/CLI.hpp>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <stdexcept>
#include <string>
#include <vector>
#include <zmq.hpp>

#include "common/limits.hpp"

namespace {

using Clock = std::chrono::steady_clock;
using muster::limits::kBlobChunkBytes;

constexpr std::size_t kSourceBytes = std::size_t{256} << 20;  // none of it stays in the cache
constexpr int kPatienceMs = 60'000;

std::uint64_t chunks_of(std::uint64_t megabytes) { return megabytes * 1'000'000 / kBlobChunkBytes; }

void send(const std::string& endpoint, std::uint64_t megabytes) {
  zmq::context_t context(1);
  zmq::socket_t socket(context, zmq::socket_type::push);
  socket.set(zmq::sockopt::sndhwm, static_cast<int>(muster::limits::kBlobChunksAhead));
  socket.set(zmq::sockopt::sndtimeo, kPatienceMs);
  socket.set(zmq::sockopt::linger, kPatienceMs);
  socket.bind(endpoint);
  std::vector<std::byte> source(kSourceBytes, std::byte{7});
  const auto keep = [](void*, void*) {};
  for (std::uint64_t i = 0; i < chunks_of(megabytes); ++i) {
    const std::size_t offset = i * kBlobChunkBytes % kSourceBytes;
    zmq::message_t chunk(&source[offset], kBlobChunkBytes, keep);
    if (!socket.send(chunk, zmq::send_flags::none)) throw std::runtime_error("nobody receives");
  }
  socket.close();
  context.close();  // waits until all has left; the source must live so long
}

void receive(const std::string& endpoint, std::uint64_t megabytes) {
  zmq::context_t context(1);
  zmq::socket_t socket(context, zmq::socket_type::pull);
  socket.set(zmq::sockopt::rcvhwm, static_cast<int>(muster::limits::kBlobChunksAhead));
  socket.set(zmq::sockopt::rcvtimeo, kPatienceMs);
  socket.connect(endpoint);
  const std::uint64_t chunks = chunks_of(megabytes);
  Clock::time_point start{};
  for (std::uint64_t i = 0; i < chunks; ++i) {
    zmq::message_t chunk;
    if (!socket.recv(chunk)) throw std::runtime_error("nobody sends");
    if (i == 0) start = Clock::now();
  }
  const std::chrono::duration<double> taken = Clock::now() - start;
  std::printf("{\"figure\":\"megabytes_per_second\",\"value\":%.2f}\n",
              static_cast<double>((chunks - 1) * kBlobChunkBytes) / 1e6 / taken.count());
}

}  // namespace

int main(int argc, char** argv) {
  std::string listen;
  std::string connect;
  std::uint64_t megabytes = 1024;
  bool json = true;
  CLI::App app("Chunks through ZeroMQ over TCP, one way");
  CLI::Option* listening = app.add_option("--listen", listen, "send to who connects here");
  app.add_option("--connect", connect, "receive from there")->excludes(listening);
  app.add_option("--megabytes", megabytes, "how much")
      ->check(CLI::Range(std::uint64_t{2}, std::uint64_t{1} << 20));
  app.add_flag("--json", json, "the only format there is");
  CLI11_PARSE(app, argc, argv);
  try {
    if (!listen.empty()) {
      send(listen, megabytes);
    } else {
      receive(connect, megabytes);
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "raw_bulk_bench: %s\n", error.what());
    return 2;
  }
  return 0;
}
