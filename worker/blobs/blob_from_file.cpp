#include "worker/blobs/blob_from_file.hpp"

#include <fcntl.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "worker/blobs/blob_files.hpp"

namespace muster {

struct BlobFromFile::State {
  std::shared_ptr<const BlobHome> home;
  std::string path;
  Descriptor source;
  BlobName name;
  bool movable = false;
  std::size_t place = 0;  // in kResultPlaces, of `copy`
  std::unique_ptr<IncomingFile> copy;
  std::uint64_t copied_bytes = 0;
};

BlobFromFile::BlobFromFile(const TaskBlobs& blobs, const std::string& path)
    : state_(std::make_unique<State>()) {
  State& state = *state_;
  state.home = blobs.home();
  state.path = path;
  state.source.reset(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  struct stat facts {};
  struct stat entry {};
  if (!state.source || ::fstat(state.source.get(), &facts) != 0 ||
      ::lstat(path.c_str(), &entry) != 0) {
    throw BlobError(std::strerror(errno));
  }
  if (!S_ISREG(facts.st_mode)) throw BlobError("it is not an ordinary file");
  state.name = random_name(static_cast<std::uint64_t>(facts.st_size));
  state.movable = S_ISREG(entry.st_mode) && facts.st_nlink == 1 && facts.st_uid == ::geteuid();
}

BlobFromFile::~BlobFromFile() = default;

std::uint64_t BlobFromFile::size_bytes() const { return state_->name.size_bytes; }

Blob BlobFromFile::step(std::uint64_t most_bytes) {
  State& state = *state_;
  if (std::exchange(state.movable, false)) {
    for (const char* place : kResultPlaces) {
      IncomingFile file(state.home, place, state.name);
      if (::rename(state.path.c_str(), file.path().c_str()) != 0) continue;
      ::fchmod(state.source.get(), kResultFileMode);
      return file.finish();  // it has its name
    }
  }
  const std::uint64_t wanted = state.name.size_bytes;
  while (true) {
    if (state.copy == nullptr) {
      if (state.place == kResultPlaces.size()) throw_no_room(*state.home, wanted);
      const char* place = kResultPlaces[state.place++];
      if (!has_room(*state.home, place, wanted)) continue;
      state.copy = std::make_unique<IncomingFile>(state.home, place, state.name);
      state.copied_bytes = 0;
      const int error = state.copy->create();
      if (error != 0) throw_unwritable(state.copy->path(), error);
    }
    if (state.copied_bytes == wanted) return state.copy->finish();
    if (most_bytes == 0) return {};
    auto offset = static_cast<off_t>(state.copied_bytes);
    const ssize_t sent = ::sendfile(state.copy->descriptor(), state.source.get(), &offset,
                                    std::min(wanted - state.copied_bytes, most_bytes));
    if (sent > 0) {
      state.copied_bytes += static_cast<std::uint64_t>(sent);
      most_bytes -= static_cast<std::uint64_t>(sent);
    } else if (sent == 0) {
      throw BlobError("it became shorter while it was read");
    } else if (is_full(errno)) {
      state.copy.reset();
    } else if (errno != EINTR) {
      throw_unwritable(state.copy->path(), errno);
    }
  }
}

}  // namespace muster
