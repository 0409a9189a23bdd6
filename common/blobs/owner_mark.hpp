// Tells which of the processes that write into another's incoming folders still live.
//
//   FOLDER/owners/<owner>   locked (flock) by the process that writes FOLDER/incoming/*.<owner>
//
// The lock ends with the process, however it ends. So whose folder it is can tell a file that waits
// to be reported, perhaps for hours because the broker is away, from one whose owner is dead.
// Owners without a mark (programs that do not make one) may be alive or not. Threads: a mark
// belongs to one; distinct marks are independent.
#pragma once

#include <sys/types.h>

#include <string>

#include "common/system/descriptor.hpp"

namespace muster {

inline constexpr const char* kOwnersFolder = "owners";

class OwnerMark {
 public:
  // Marks this process as the owner, in place of an earlier mark. Where that cannot be done (no
  // such folder, no room, no right) it lives without.
  OwnerMark(const std::string& folder, const std::string& owner);
  ~OwnerMark();  // removes it, unless another one took its place
  OwnerMark(const OwnerMark&) = delete;
  OwnerMark& operator=(const OwnerMark&) = delete;

 private:
  std::string path_;
  Descriptor lock_;
};

enum class OwnerLife { unknown, lives, dead };
// What the mark of this owner in `owners` (an open folder) says about files of this user: another
// user's mark says nothing about them.
OwnerLife life_of(int owners, const std::string& owner, uid_t user);
// Whether some owner in FOLDER lives.
bool has_living_owner(const std::string& folder);

}  // namespace muster
