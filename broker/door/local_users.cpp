#include "broker/door/local_users.hpp"

#include <fmt/format.h>
#include <pwd.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>

namespace muster {
namespace {

constexpr std::uint32_t kRoot = 0;

bool has_number(const std::string& name, std::uint32_t number) {
  const passwd* entry = getpwnam(name.c_str());
  return entry != nullptr && entry->pw_uid == number;
}

}  // namespace

LocalUsers::LocalUsers(const std::vector<std::string>& workers) : own_(geteuid()) {
  for (const std::string& name : workers) {
    std::uint32_t number = 0;
    const char* const end = name.data() + name.size();
    const auto [rest, error] = std::from_chars(name.data(), end, number);
    if (error == std::errc() && rest == end) {
      numbers_.insert(number);
    } else {
      names_.push_back(name);
    }
  }
}

LocalUser LocalUsers::user(std::optional<std::uint32_t> number) const {
  if (!number) return {"a user whom the system does not name", UINT32_MAX, true, false};
  if (*number == own_) return {};
  if (*number == kRoot) return {"root", kRoot, false, true};  // who could do everything anyhow
  return {fmt::format("user {}", *number), *number, true, false};
}

bool LocalUsers::may_work(const LocalUser& user) const {
  if (!user.is_member) return true;
  return numbers_.count(user.id) != 0 ||
         std::any_of(names_.begin(), names_.end(),
                     [&](const std::string& name) { return has_number(name, user.id); });
}

}  // namespace muster
