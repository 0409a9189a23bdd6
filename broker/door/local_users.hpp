// What the users of this machine may do at the broker. Which of them is behind a local connection
// is what the system says of it.
//
// Owner: the broker's loop. Threads: one. Blocking: may_work() asks the system for users by name.
#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "broker/books/user_table.hpp"

namespace muster {

class LocalUsers {
 public:
  // `workers`: names or numbers of the users whose workers are admitted, besides the broker's own
  // user and root. A name need not exist yet: services may have users while they run alone.
  explicit LocalUsers(const std::vector<std::string>& workers);
  // The user with this number, without leave to bring workers. Nothing: the transport could not
  // tell.
  LocalUser user(std::optional<std::uint32_t> number) const;
  // Whether workers of this user are admitted.
  bool may_work(const LocalUser& user) const;

 private:
  const std::uint32_t own_;
  std::set<std::uint32_t> numbers_;
  std::vector<std::string> names_;
};

}  // namespace muster
