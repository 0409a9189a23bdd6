// The limit for bulk data: ZeroMQ alone over plain TCP, in chunks as large as those of blobs.
//
//   raw_bulk_bench --listen tcp://10.0.0.1:PORT --megabytes 4096     sends what is in its memory
//   raw_bulk_bench --connect tcp://10.0.0.1:PORT --megabytes 4096    receives, and prints the speed
//
// With --files at both ends the data comes from files in memory and goes to such, as it must for
// processes that share it: the limit for anybody who keeps one copy per machine.
#include <fcntl.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>
#include <zmq.hpp>

#include "common/protocol/limits.hpp"
#include "common/system/descriptor.hpp"

namespace {

using Clock = std::chrono::steady_clock;
using muster::limits::kBlobChunkBytes;

constexpr std::size_t kSourceBytes = std::size_t{256} << 20;  // none of it stays in the cache
constexpr int kPatienceMs = 60'000;

std::uint64_t chunks_of(std::uint64_t megabytes) { return megabytes * 1'000'000 / kBlobChunkBytes; }

// Blocks of the size of blobs, each in a file of its own in memory that goes when the next one
// comes.
class MemoryFiles {
 public:
  static constexpr std::uint64_t kChunks = (std::uint64_t{64} << 20) / kBlobChunkBytes;

  void write(std::uint64_t chunk, const void* data) {
    if (chunk % kChunks == 0) next();
    check(::pwrite(file_.get(), data, kBlobChunkBytes, offset_of(chunk)));
  }
  void read(std::uint64_t chunk, void* data) const {
    check(::pread(file_.get(), data, kBlobChunkBytes, offset_of(chunk)));
  }

 private:
  static off_t offset_of(std::uint64_t chunk) {
    return static_cast<off_t>(chunk % kChunks * kBlobChunkBytes);
  }
  static void check(ssize_t done) {
    if (done != static_cast<ssize_t>(kBlobChunkBytes)) throw std::runtime_error("no memory left");
  }
  void next() {
    file_ = muster::Descriptor(::open("/dev/shm", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
    if (!file_) throw std::runtime_error("cannot make a file in /dev/shm");
  }

  muster::Descriptor file_;
};

// What is sent lies in `source`; with files, a block is written to one first, as producers do.
class Source {
 public:
  explicit Source(bool files) {
    if (files) files_.emplace();
  }
  zmq::message_t chunk(std::uint64_t number) {
    if (!files_) return {at(number), kBlobChunkBytes, [](void*, void*) {}, nullptr};
    if (number % MemoryFiles::kChunks == 0) {
      for (std::uint64_t i = 0; i < MemoryFiles::kChunks; ++i)
        files_->write(number + i, at(number + i));
    }
    zmq::message_t message(kBlobChunkBytes);
    files_->read(number, message.data());
    return message;
  }

 private:
  std::byte* at(std::uint64_t chunk) { return &memory_[chunk * kBlobChunkBytes % kSourceBytes]; }

  std::vector<std::byte> memory_ = std::vector<std::byte>(kSourceBytes, std::byte{7});
  std::optional<MemoryFiles> files_;
};

void send(const std::string& endpoint, std::uint64_t megabytes, bool files) {
  zmq::context_t context(1);
  zmq::socket_t socket(context, zmq::socket_type::push);
  socket.set(zmq::sockopt::sndhwm, static_cast<int>(muster::limits::kBlobChunksAhead));
  socket.set(zmq::sockopt::sndtimeo, kPatienceMs);
  socket.set(zmq::sockopt::linger, kPatienceMs);
  socket.bind(endpoint);
  Source source(files);
  for (std::uint64_t i = 0; i < chunks_of(megabytes); ++i) {
    zmq::message_t chunk = source.chunk(i);
    if (!socket.send(chunk, zmq::send_flags::none)) throw std::runtime_error("nobody receives");
  }
  socket.close();
  context.close();  // waits until all has left; the source must live so long
}

void receive(const std::string& endpoint, std::uint64_t megabytes, bool files) {
  zmq::context_t context(1);
  zmq::socket_t socket(context, zmq::socket_type::pull);
  socket.set(zmq::sockopt::rcvhwm, static_cast<int>(muster::limits::kBlobChunksAhead));
  socket.set(zmq::sockopt::rcvtimeo, kPatienceMs);
  socket.connect(endpoint);
  const std::uint64_t chunks = chunks_of(megabytes);
  MemoryFiles kept;
  Clock::time_point start{};
  for (std::uint64_t i = 0; i < chunks; ++i) {
    zmq::message_t chunk;
    if (!socket.recv(chunk)) throw std::runtime_error("nobody sends");
    if (chunk.size() != kBlobChunkBytes) throw std::runtime_error("not a chunk");
    if (files) kept.write(i, chunk.data());
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
  bool files = false;
  CLI::App app("Chunks through ZeroMQ over TCP, one way");
  CLI::Option* listening = app.add_option("--listen", listen, "send to who connects here");
  app.add_option("--connect", connect, "receive from there")->excludes(listening);
  app.add_option("--megabytes", megabytes, "how much")
      ->check(CLI::Range(std::uint64_t{2}, std::uint64_t{1} << 20));
  app.add_flag("--files", files, "from files in memory, to files in memory");
  app.add_flag("--json", json, "the only format there is");
  CLI11_PARSE(app, argc, argv);
  try {
    if (!listen.empty()) {
      send(listen, megabytes, files);
    } else {
      receive(connect, megabytes, files);
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "raw_bulk_bench: %s\n", error.what());
    return 2;
  }
  return 0;
}
