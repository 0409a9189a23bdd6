// Writes the seeds of the fuzzers of links: make_links_corpus FOLDER, in which it makes a folder
// for each of them. Run it after a change of the protocol and commit what it writes: what a daemon
// says to its runner, what a broker says to a client, and lives of a session and of an agent drawn
// from fixed seeds.
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <random>
#include <string>

#include "tests/support/messages.hpp"
#include "worker/runner/frame_link.hpp"

namespace muster {
namespace {

constexpr unsigned kLives = 8;
constexpr unsigned kLifeBytes = 600;

void write(const std::filesystem::path& path, const std::string& text) {
  std::filesystem::create_directories(path.parent_path());
  std::ofstream(path) << text;
}

message::Tasks tasks(std::uint64_t first, std::size_t count) {
  message::Tasks said{testing::kSession, JobId{1}, {{TaskSequence{first}, Attempt{1}, {}}}};
  for (std::size_t i = 0; i < count; ++i) said.runs[0].payloads.push_back(testing::payload_of(3));
  return said;
}

// No cuts: the first byte is 0.
void write_runner_link(const std::filesystem::path& folder) {
  const SessionId session = testing::kSession;
  const auto range = [](std::uint64_t first, std::uint64_t count) {
    return std::vector<LeaseRange>{{TaskSequence{first}, count, Attempt{1}}};
  };
  const message::WorkerJob job{session, JobId{1}, testing::sample_spec()};
  const auto seed = [&](const char* name, const std::vector<Message>& messages) {
    std::string bytes(1, '\0');
    for (const Message& message : messages) append_message(bytes, message);
    write(folder / name, bytes);
  };
  seed("tasks", {job, tasks(0, 3), tasks(3, 1)});
  seed("recall", {job, tasks(0, 5), message::Recall{session, JobId{1}, {}}});
  seed("stop", {job, tasks(0, 4), message::StopTasks{session, JobId{1}, range(1, 2)}});
  seed("forget", {job, tasks(0, 1), message::ForgetJob{session, JobId{1}}, job, tasks(0, 1)});
  seed("answer", {job, message::StoreAnswer{1, {}}, tasks(0, 1)});
  seed("stranger", {job, message::Goodbye{}, tasks(7, 1)});
}

// A step that hears frames: its kind, how many, and of each two bytes of length before its own.
std::string heard(const Message& message) {
  const Frames frames = encode(message, Packing::when_smaller);
  if (frames.size() > 3) return {};
  std::string text(1, '\0');
  text += static_cast<char>(frames.size() - 1);
  for (const Bytes& frame : frames) {
    if (frame.size() >= 4096) return {};
    text += static_cast<char>(frame.size() >> 8);
    text += static_cast<char>(frame.size());
    text += frame.text();
  }
  return text;
}

void write_client_link(const std::filesystem::path& folder) {
  const std::string connected(1, '\xaa');
  for (const Message& message : testing::sample_messages()) {
    const std::string text = heard(message);
    if (!text.empty()) write(folder / name_of(message), connected + text);
  }
}

void write_lives(const std::filesystem::path& folder) {
  for (unsigned seed = 0; seed < kLives; ++seed) {
    std::mt19937 random(seed);
    std::string tape;
    for (unsigned i = 0; i < kLifeBytes; ++i) tape += static_cast<char>(random());
    write(folder / ("life" + std::to_string(seed)), tape);
  }
}

}  // namespace
}  // namespace muster

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: make_links_corpus FOLDER\n");
    return 2;
  }
  const std::filesystem::path folder = argv[1];
  muster::write_runner_link(folder / "runner_link");
  muster::write_client_link(folder / "client_link");
  for (const char* name : {"session", "agent", "client_link"}) muster::write_lives(folder / name);
  return 0;
}
