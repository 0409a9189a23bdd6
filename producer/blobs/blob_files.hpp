// The files of a producer's blobs in the folders of its broker: a producer that shares them writes
// content once and sends none of it (common/blobs/blob_folder.hpp says what lies where).
//
// Threads: any; the functions keep no state. Blocking: on disk input and output.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <muster/blob.hpp>
#include <optional>
#include <span>
#include <string>
#include <variant>

#include "common/protocol/message.hpp"
#include "common/system/descriptor.hpp"

namespace muster::detail {

// The broker's folders, and who writes there: a session, in hexadecimal.
struct BlobFolders {
  std::string memory;
  std::string disk;
  std::string owner;

  // "ID-NUMBER.OWNER", relative to an incoming folder. A file of its own for each time that a blob
  // is put: the broker may still be about to take what was written for an earlier one.
  std::string incoming_name(const BlobId& id, std::uint64_t number) const;
};

// Whether this process sees the folder in memory as the broker does, as its file `token` says, and
// may write to both: a broker of another user may have one of them where we cannot go.
bool shares_folders(const BlobFolders& folders, const std::string& token);

// Gives a blob that lies in a folder already another name in the incoming folder, `file`, so that
// it stays whatever the broker does meanwhile. Nothing: it is not there.
std::optional<BlobPlace> link_blob(const BlobFolders& folders, const BlobName& name,
                                   const std::string& file);

// What writes content into a file, from its beginning: 0, or the errno of what failed.
using ContentWriter = std::function<int(int descriptor)>;
ContentWriter writer_of(std::span<const std::byte> content);

struct WriteFault {
  std::string text;      // says what ran out and what to do
  bool is_full = false;  // both file systems are
};

// Writes `file` into an incoming folder: in memory if it may and there is room, else on disk.
// Precondition: nobody else uses that name.
std::variant<BlobPlace, WriteFault> write_blob(const BlobFolders& folders, const BlobName& name,
                                               const std::string& file,
                                               const ContentWriter& content, bool may_use_memory);

// Whether write_blob() would find so much room now ...
bool has_room(const BlobFolders& folders, std::uint64_t size_bytes, bool may_use_memory);
// ... or would, if nothing else were on one of the file systems.
bool fits_at_all(const BlobFolders& folders, std::uint64_t size_bytes);

// What write_blob() or link_blob() did: whether no broker has taken it yet, and takes it back.
bool is_incoming(const BlobFolders& folders, const BlobSource& source);
void discard_blob(const BlobFolders& folders, const BlobSource& source);

// Opens a blob for reading wherever it is now. Nothing: it is nowhere.
std::optional<BlobFile::Opened> open_blob(const BlobFolders& folders, const BlobSource& source);

// Whether the broker is another user's, who may not be able to read our files.
bool are_others(const BlobFolders& folders);

// The content of a file, or a part of it, as it was when it was opened: its name, and what writes
// it. The writer fails with ESTALE when the file changed meanwhile.
class FileContent {
 public:
  // Throws Error invalid; reads all of it. The greatest `size_bytes`: up to the end of the file.
  explicit FileContent(const std::string& path, std::uint64_t offset = 0,
                       std::uint64_t size_bytes = std::numeric_limits<std::uint64_t>::max());
  const BlobName& name() const { return name_; }
  ContentWriter writer() const;

 private:
  const std::string path_;
  const std::uint64_t offset_;
  const std::uint64_t size_bytes_;
  Descriptor file_;
  BlobName name_;
};

// A part of a file of the user's as it is now, named by what tells that it changed. Throws Error
// invalid. The greatest `size_bytes`: up to the end of the file.
BlobSource describe_file(const std::string& path, std::uint64_t offset, std::uint64_t size_bytes);

}  // namespace muster::detail
