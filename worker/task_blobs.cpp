#include "worker/task_blobs.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/random.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <utility>

#include "common/blob.hpp"
#include "common/codec.hpp"
#include "common/descriptor.hpp"
#include "common/user_file.hpp"

namespace muster {
namespace {

constexpr std::array<const char*, 2> kPlaces = {"memory", "disk"};
constexpr int kMostVectors = 64;
// Of a file system this part stays free: others need room there, too.
constexpr std::uint64_t kSpareShare = 16;
constexpr std::uint64_t kMostSpareBytes = std::uint64_t{256} << 20;
// Who may enter the folders may read; that is only their user, or a group of the user's choice.
constexpr mode_t kFileMode = 0640;

std::string hex_of(const detail::BlobFile& file) { return to_hex(BlobId{file.high, file.low}); }

bool is_full(int error) { return error == ENOSPC || error == EDQUOT; }

// --- Blobs that are there -----------------------------------------------------------------------

Descriptor open_to_read(const std::string& path) {
  return Descriptor(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
}

// The part of a file of the user's that the file at `path` speaks of.
std::optional<detail::BlobFile::Opened> open_users_file(const std::string& path,
                                                        std::uint64_t size_bytes) {
  const Descriptor link = open_to_read(path);
  if (!link) return std::nullopt;
  std::string text(limits::kMaxPathBytes * 2, '\0');
  const ssize_t got = ::read(link.get(), text.data(), text.size());
  text.resize(got > 0 ? static_cast<std::size_t>(got) : 0);
  const std::optional<UserFile> file = decode_user_file(text);
  if (!file || file->size_bytes != size_bytes) {
    throw BlobError(
        fmt::format("'{}' does not say which file a blob is in; another version of "
                    "Muster wrote it",
                    path));
  }
  std::string error;
  Descriptor descriptor = open_user_file(*file, error);
  if (!descriptor) throw BlobError(error);
  return detail::BlobFile::Opened{descriptor.release(), file->offset_bytes};
}

// A blob of the node's folders.
class StoredBlob : public detail::BlobFile {
 public:
  StoredBlob(std::shared_ptr<const BlobHome> home, const BlobName& name)
      : BlobFile(name.id.high, name.id.low, name.size_bytes), home_(std::move(home)) {}

  Opened open() const override {
    const std::string memory = fmt::format("{}/memory/{}", home_->folder, hex_of(*this));
    const std::string disk = fmt::format("{}/disk/{}", home_->folder, hex_of(*this));
    // One that moves from memory to disk meanwhile is in one of these.
    for (const std::string& path : {memory, disk, memory}) {
      Descriptor descriptor = open_to_read(path);
      if (descriptor) return {descriptor.release(), 0};
      if (errno != ENOENT) {
        throw BlobError(fmt::format("cannot open blob {} at '{}': {}", hex_of(*this), path,
                                    std::strerror(errno)));
      }
    }
    if (const auto opened = open_users_file(disk + ".file", size_bytes)) return *opened;
    throw BlobError(fmt::format(
        "blob {} ({} bytes) is not on this node any more, looked for in {}/memory and {}/disk: "
        "something other than Muster removed it, or its job is over; run the job again",
        hex_of(*this), size_bytes, home_->folder, home_->folder));
  }

 protected:
  const BlobHome& home() const { return *home_; }

 private:
  const std::shared_ptr<const BlobHome> home_;
};

// --- Blobs of results ---------------------------------------------------------------------------

[[noreturn]] void throw_unwritable(const std::string& path, int error) {
  throw BlobError(fmt::format("cannot write a result to '{}': {}", path, std::strerror(error)));
}

// A file that has no name until an outcome names the blob: when the process dies before that, the
// kernel takes it back. (Where the file system cannot do that, or there are too many of them, it
// has its name from the beginning; whose folder it is removes old ones.)
class MadeBlob final : public StoredBlob {
 public:
  MadeBlob(std::shared_ptr<const BlobHome> home, const BlobName& name, std::string path,
           Descriptor unnamed)
      : StoredBlob(std::move(home), name), path_(std::move(path)), unnamed_(std::move(unnamed)) {
    if (!unnamed_) return;
    counted_ = ++unnamed_files <= kMostUnnamed;
    if (counted_) return;
    --unnamed_files;
    link();
  }
  ~MadeBlob() override {
    if (counted_) --unnamed_files;
    const bool wanted = delivered_ || ::getpid() != maker_;  // the child of a fork
    if (!unnamed_ && !wanted) ::unlink(path_.c_str());
  }
  MadeBlob(const MadeBlob&) = delete;
  MadeBlob& operator=(const MadeBlob&) = delete;

  Opened open() const override {
    const std::lock_guard lock(mutex_);
    const std::string path = unnamed_ ? fmt::format("/proc/self/fd/{}", unnamed_.get()) : path_;
    Descriptor descriptor = open_to_read(path);
    if (descriptor) return {descriptor.release(), 0};
    return StoredBlob::open();  // it was taken
  }

  // Whether it is free for an outcome. Then the outcome is delivered, or it is free again.
  bool claim() const { return !claimed_.exchange(true); }
  void unclaim() const { claimed_ = false; }
  void deliver() const { delivered_ = true; }
  // Gives the file its name.
  void link() const {
    const std::lock_guard lock(mutex_);
    if (!unnamed_) return;
    const std::string from = fmt::format("/proc/self/fd/{}", unnamed_.get());
    if (::linkat(AT_FDCWD, from.c_str(), AT_FDCWD, path_.c_str(), AT_SYMLINK_FOLLOW) != 0) {
      throw_unwritable(path_, errno);
    }
    unnamed_.reset();
    if (std::exchange(counted_, false)) --unnamed_files;
  }

 private:
  static constexpr int kMostUnnamed = 128;
  static inline std::atomic<int> unnamed_files{0};  // of this process, which may have few open

  const std::string path_;
  const pid_t maker_ = ::getpid();
  mutable std::mutex mutex_;
  mutable Descriptor unnamed_;
  mutable bool counted_ = false;  // among `unnamed_files`
  mutable std::atomic<bool> claimed_{false};
  mutable std::atomic<bool> delivered_{false};
};

BlobName random_name(std::uint64_t size_bytes) {
  std::array<std::uint64_t, 2> words{};
  auto* bytes = reinterpret_cast<char*>(words.data());
  std::size_t have = 0;
  while (have < sizeof words) {
    const ssize_t got = ::getrandom(bytes + have, sizeof words - have, 0);
    if (got > 0) have += static_cast<std::size_t>(got);
  }
  return {{words[0], words[1] | 1}, size_bytes};
}

std::string incoming_path(const BlobHome& home, const char* place, const BlobId& id) {
  return fmt::format("{}/{}/incoming/{}.{}", home.folder, place, to_hex(id), home.owner);
}

// A file that is being written; removed unless it becomes a blob.
struct IncomingFile {
  IncomingFile(std::shared_ptr<const BlobHome> blob_home, const char* where, const BlobName& called)
      : home(std::move(blob_home)),
        name(called),
        place(where),
        path(incoming_path(*home, where, called.id)) {}
  ~IncomingFile() {
    if (written && has_name) ::unlink(path.c_str());
  }
  IncomingFile(const IncomingFile&) = delete;
  IncomingFile& operator=(const IncomingFile&) = delete;

  // Returns errno.
  int create() {
    const std::string folder = fmt::format("{}/{}/incoming", home->folder, place);
    written.reset(::open(folder.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, kFileMode));
    if (!written && (errno == EOPNOTSUPP || errno == EISDIR || errno == EINVAL)) {
      written.reset(::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, kFileMode));
      has_name = true;
    }
    return written ? 0 : errno;
  }
  Blob finish() {
    Descriptor unnamed = std::move(written);
    if (has_name) unnamed.reset();
    return Blob(std::make_shared<MadeBlob>(home, name, path, std::move(unnamed)));
  }

  const std::shared_ptr<const BlobHome> home;
  const BlobName name;
  const char* const place;
  const std::string path;
  Descriptor written;
  bool has_name = false;
};

// Writing until a file system is full would take from others what they have left.
bool has_room(const BlobHome& home, const char* place, std::uint64_t size_bytes) {
  struct statvfs facts {};
  if (::statvfs(fmt::format("{}/{}/incoming", home.folder, place).c_str(), &facts) != 0) {
    return true;  // creating the file says why
  }
  const std::uint64_t unit = facts.f_frsize;
  const std::uint64_t spare = std::min(facts.f_blocks * unit / kSpareShare, kMostSpareBytes);
  return facts.f_bavail * unit >= spare && facts.f_bavail * unit - spare >= size_bytes;
}

[[noreturn]] void throw_no_room(const BlobHome& home, std::uint64_t size_bytes) {
  throw NoRoomError(fmt::format(
      "no room on this node for a result of {} bytes, neither in {}/memory nor in {}/disk; free "
      "space there, or return less at a time",
      size_bytes, home.folder, home.folder));
}

// Returns errno.
int write_parts(int descriptor, std::span<const std::span<const std::byte>> parts) {
  std::array<iovec, kMostVectors> vectors;
  std::size_t next = 0;
  std::size_t offset = 0;  // in parts[next]
  while (true) {
    int count = 0;
    for (std::size_t i = next; i < parts.size() && count < kMostVectors; ++i) {
      const std::span<const std::byte> part = parts[i].subspan(i == next ? offset : 0);
      if (part.empty()) continue;
      vectors[static_cast<std::size_t>(count)] = {const_cast<std::byte*>(part.data()), part.size()};
      ++count;
    }
    if (count == 0) return 0;
    const ssize_t written = ::writev(descriptor, vectors.data(), count);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return errno;
    offset += static_cast<std::size_t>(written);
    while (next < parts.size() && offset >= parts[next].size()) offset -= parts[next++].size();
  }
}

}  // namespace

BlobHome BlobHome::from_environment() {
  const char* folder = std::getenv("MUSTER_BLOBS");
  const char* owner = std::getenv("MUSTER_BLOB_OWNER");
  if (folder == nullptr || owner == nullptr) return {};
  return {folder, owner};
}

TaskBlobs::TaskBlobs(BlobHome home) : home_(std::make_shared<const BlobHome>(std::move(home))) {}

bool TaskBlobs::shares_files() const {
  return available() && ::access((home_->folder + "/shares").c_str(), F_OK) == 0;
}

std::vector<Blob> TaskBlobs::open(const Payload& payload, Time now) {
  if (payload.blobs == 0) return {};
  if (!available()) {
    throw BlobError(
        "the arguments are in blobs, and this process was started without "
        "MUSTER_BLOBS: start muster-worker instead");
  }
  std::vector<Blob> known;
  {
    const std::lock_guard lock(mutex_);
    known = kept_;
  }
  std::vector<Blob> opened;
  opened.reserve(payload.blobs);
  for (std::size_t i = 0; i < payload.blobs; ++i) {
    const BlobName name = blob_at(payload, i);
    const auto found = std::find_if(known.begin(), known.end(), [&](const Blob& blob) {
      return blob.file()->high == name.id.high && blob.file()->low == name.id.low &&
             blob.size() == name.size_bytes;
    });
    opened.push_back(found != known.end() ? *found
                                          : Blob(std::make_shared<StoredBlob>(home_, name)));
    static_cast<void>(opened.back().bytes());  // maps it: from here on it cannot go away
  }
  const std::lock_guard lock(mutex_);
  kept_ = opened;
  kept_until_ = now + kKeptMaps;
  return opened;
}

std::variant<OpenPayload, Failure> TaskBlobs::unpack(const Payload& payload, const char* what,
                                                     Time now) {
  OpenPayload open_payload;
  try {
    open_payload.blobs = open(payload, now);
  } catch (const BlobError& error) {
    return blob_failure(error);
  }
  if (is_one_blob(payload)) {
    open_payload.body = open_payload.blobs.front().bytes();
    open_payload.blobs.clear();
    return open_payload;
  }
  std::optional<Bytes> body = unpack_payload(payload);
  if (!body) return Failure{"bad_arguments", fmt::format("the packed {} is damaged", what), "", {}};
  open_payload.body = std::move(*body);
  return open_payload;
}

void TaskBlobs::tick(Time now) {
  std::vector<Blob> ended;  // outside the lock
  const std::lock_guard lock(mutex_);
  if (now < kept_until_) return;
  ended.swap(kept_);
  kept_until_ = kNever;
}

Time TaskBlobs::next_deadline() const {
  const std::lock_guard lock(mutex_);
  return kept_until_;
}

Blob TaskBlobs::make(std::span<const std::span<const std::byte>> parts) const {
  std::uint64_t size_bytes = 0;
  for (const std::span<const std::byte>& part : parts) size_bytes += part.size();
  if (!available()) throw BlobError("this process was started without MUSTER_BLOBS");
  const BlobName name = random_name(size_bytes);
  for (const char* place : kPlaces) {
    if (!has_room(*home_, place, size_bytes)) continue;
    IncomingFile file(home_, place, name);
    int error = file.create();
    if (error == 0) error = write_parts(file.written.get(), parts);
    if (error == 0) return file.finish();
    if (!is_full(error)) throw_unwritable(file.path, error);
  }
  throw_no_room(*home_, size_bytes);
}

// The blobs that an outcome is about to name.
class TaskBlobs::Delivery {
 public:
  explicit Delivery(const TaskBlobs& blobs) : blobs_(blobs) {}
  ~Delivery() {
    if (done_) return;
    for (const Blob& blob : own_) made(blob).unclaim();
  }
  Delivery(const Delivery&) = delete;
  Delivery& operator=(const Delivery&) = delete;

  void add(const Blob& blob) {
    const auto* own = dynamic_cast<const MadeBlob*>(blob.file().get());
    if (own != nullptr && own->claim()) {
      own_.push_back(blob);
    } else {
      add_content(blob.bytes());
    }
  }
  void add_content(const Bytes& content) {
    const std::span<const std::byte> part = content.span();
    own_.push_back(blobs_.make({&part, 1}));
    made(own_.back()).claim();
  }
  std::vector<BlobName> deliver() {
    std::vector<BlobName> names;
    for (const Blob& blob : own_) {
      made(blob).link();
      names.push_back({{made(blob).high, made(blob).low}, made(blob).size_bytes});
    }
    for (const Blob& blob : own_) made(blob).deliver();
    done_ = true;
    return names;
  }

 private:
  static const MadeBlob& made(const Blob& blob) {
    return dynamic_cast<const MadeBlob&>(*blob.file());
  }

  const TaskBlobs& blobs_;
  std::vector<Blob> own_;
  bool done_ = false;
};

Payload TaskBlobs::payload_of(Bytes body, const std::vector<Blob>& blobs) const {
  const bool as_blob = blobs.empty() && body.size() > limits::kMaxBodyBytes && available();
  if (blobs.empty() && !as_blob) return {std::move(body), 0};
  if (blobs.size() > limits::kMaxPayloadBlobs) {
    throw BlobError(fmt::format("the result has {} large parts; at most {} can travel on their own",
                                blobs.size(), limits::kMaxPayloadBlobs));
  }
  Delivery delivery(*this);
  for (const Blob& blob : blobs) delivery.add(blob);
  if (as_blob) delivery.add_content(std::exchange(body, {}));
  return with_blobs(delivery.deliver(), {std::move(body), 0});
}

// --- Files as blobs -----------------------------------------------------------------------------

struct BlobFromFile::State {
  std::shared_ptr<const BlobHome> home;
  std::string path;
  Descriptor source;
  BlobName name;
  bool movable = false;
  std::size_t place = 0;  // in kPlaces, of `copy`
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
  if (!S_ISREG(facts.st_mode)) throw BlobError("it is no ordinary file");
  state.name = random_name(static_cast<std::uint64_t>(facts.st_size));
  state.movable = S_ISREG(entry.st_mode) && facts.st_nlink == 1 && facts.st_uid == ::geteuid();
}

BlobFromFile::~BlobFromFile() = default;

std::uint64_t BlobFromFile::size_bytes() const { return state_->name.size_bytes; }

Blob BlobFromFile::step(std::uint64_t most_bytes) {
  State& state = *state_;
  if (std::exchange(state.movable, false)) {
    for (const char* place : kPlaces) {
      IncomingFile file(state.home, place, state.name);
      if (::rename(state.path.c_str(), file.path.c_str()) != 0) continue;
      ::fchmod(state.source.get(), kFileMode);
      return file.finish();  // it has its name
    }
  }
  const std::uint64_t wanted = state.name.size_bytes;
  while (true) {
    if (state.copy == nullptr) {
      if (state.place == kPlaces.size()) throw_no_room(*state.home, wanted);
      const char* place = kPlaces[state.place++];
      if (!has_room(*state.home, place, wanted)) continue;
      state.copy = std::make_unique<IncomingFile>(state.home, place, state.name);
      state.copied_bytes = 0;
      const int error = state.copy->create();
      if (error != 0) throw_unwritable(state.copy->path, error);
    }
    if (state.copied_bytes == wanted) return state.copy->finish();
    if (most_bytes == 0) return {};
    auto offset = static_cast<off_t>(state.copied_bytes);
    const ssize_t sent = ::sendfile(state.copy->written.get(), state.source.get(), &offset,
                                    std::min(wanted - state.copied_bytes, most_bytes));
    if (sent > 0) {
      state.copied_bytes += static_cast<std::uint64_t>(sent);
      most_bytes -= static_cast<std::uint64_t>(sent);
    } else if (sent == 0) {
      throw BlobError("it became shorter while it was read");
    } else if (is_full(errno)) {
      state.copy.reset();
    } else if (errno != EINTR) {
      throw_unwritable(state.copy->path, errno);
    }
  }
}

void discard_result(const BlobHome& home, const Payload& payload) {
  if (home.folder.empty()) return;
  for (std::size_t i = 0; i < payload.blobs; ++i) {
    for (const char* place : kPlaces) {
      ::unlink(incoming_path(home, place, blob_at(payload, i).id).c_str());
    }
  }
}

std::uint64_t size_of_result(const Bytes& body, const std::vector<Blob>& blobs) {
  std::uint64_t total = body.size();
  for (const Blob& blob : blobs) total += blob.size();
  return total;
}

Failure blob_failure(const BlobError& error) {
  const bool no_room = dynamic_cast<const NoRoomError*>(&error) != nullptr;
  return {no_room ? "no_room" : "blob_lost", error.what(), "", {}};
}

}  // namespace muster
