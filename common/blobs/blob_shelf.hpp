// One of the two folders of a BlobFolder: the files, and how much room they have. Owner: a
// BlobFolder, whose thread it belongs to.
#pragma once

#include <cstdint>
#include <ctime>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "common/blobs/folder_claim.hpp"
#include "common/blobs/user_file.hpp"
#include "common/protocol/message.hpp"
#include "common/system/descriptor.hpp"

namespace muster {

class BlobShelf {
 public:
  // Claims the folder and makes `incoming` in it. Throws std::runtime_error.
  BlobShelf(const std::string& path, std::uint64_t limit_bytes, const FolderClaim::Options& claim);

  const std::string& path() const { return claim_.path(); }
  FolderClaim& claim() { return claim_; }

  // --- Room
  std::uint64_t used_bytes() const { return used_bytes_; }
  void use(std::uint64_t bytes) { used_bytes_ += bytes; }
  void unuse(std::uint64_t bytes) { used_bytes_ -= bytes; }
  std::uint64_t limit_bytes() const { return limit_bytes_; }
  bool is_over_limit() const { return used_bytes_ > limit_bytes_; }
  // Of `used`, what files that are being written do not take yet.
  void promise(std::uint64_t bytes) { promised_bytes_ += bytes; }
  void keep(std::uint64_t bytes) { promised_bytes_ -= bytes; }
  // Whether `bytes` more are within the limit, and on the file system.
  bool has_room(std::uint64_t bytes) const;
  std::uint64_t free_bytes() const;  // of its file system, less what it leaves to others

  // --- Blobs; names are those of files, results errno or 0
  Descriptor open_blob(const BlobId& id) const;  // for reading; none: errno says why
  int place(const std::string& incoming, const BlobId& id);
  // The same, of the incoming file that was opened: ESTALE when the name is another file's by now.
  int place(const std::string& incoming, const BlobId& id, int opened);
  int refer(const BlobId& id, const UserFile& file);  // to a file of the user's
  void remove(const BlobId& id);
  // What earlier processes left.
  void each_blob(const std::function<void(const BlobName&)>& visit) const;
  void each_user_file(const std::function<void(const BlobId&, const UserFile&)>& visit) const;

  // --- Incoming files
  bool has_incoming(const std::string& name) const;
  // The system's number of the user whose file it is; nothing: there is none.
  std::optional<std::uint32_t> maker_of(const std::string& name) const;
  Descriptor open_incoming(const std::string& name) const;    // for reading
  Descriptor create_incoming(const std::string& name) const;  // for writing; replaces
  void remove_incoming(const std::string& name) const;
  // Those that end so.
  void clear_incoming(const std::string& ending) const;
  // Those whose owners are dead (owner_mark.hpp), if nothing was written to them since
  // `dead_before`: an owner's last word about one may be on its way. Those of owners of whom nobody
  // knows, if nothing was written to them since `before`. The marks of dead owners go with them.
  void clear_abandoned(std::time_t dead_before, std::time_t before) const;

  void write_token(const std::string& token) const;

 private:
  void clear();
  int write_whole(const std::string& name, const std::string& text) const;
  void make_incoming();
  Descriptor make_shared(const char* name) const;

  FolderClaim claim_;
  Descriptor incoming_;
  Descriptor owners_;
  const std::uint64_t limit_bytes_;
  const bool group_;
  std::uint64_t used_bytes_ = 0;
  std::uint64_t promised_bytes_ = 0;
};

}  // namespace muster
