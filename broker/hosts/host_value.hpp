// One `key = value` of a hosts file, read as what it has to be; every complaint names file, line
// and column. Part of hosts_file.cpp.
#pragma once

#include <fmt/format.h>
#include <pwd.h>
#include <toml++/toml.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "broker/hosts/host_text.hpp"

namespace muster {

// Which text is read, for messages and for relative paths.
struct Place {
  const std::string& origin;
  const std::string& folder;

  [[noreturn]] void fail(const toml::source_region& at, const std::string& text) const {
    throw std::invalid_argument(
        fmt::format("{}:{}:{}: {}", origin, at.begin.line, at.begin.column, text));
  }
};

inline std::string home_folder() {
  if (const char* home = std::getenv("HOME"); home != nullptr && *home != '\0') return home;
  const passwd* entry = getpwuid(getuid());
  return entry == nullptr ? "/" : entry->pw_dir;
}

// One `key = value`.
class Value {
 public:
  Value(const Place& place, std::string key, const toml::node& node)
      : place_(place), key_(std::move(key)), node_(node) {}

  [[noreturn]] void fail(const std::string& text) const { place_.fail(node_.source(), text); }
  // Runs a check of host_text.hpp, whose complaint gets this value's place.
  template <typename Check>
  auto checked(const Check& check) const {
    try {
      return check();
    } catch (const std::invalid_argument& error) {
      fail(fmt::format("{}: {}", key_, error.what()));
    }
  }

  std::string text() const {
    const auto* value = node_.as_string();
    if (value == nullptr) fail(fmt::format("{} must be a text in quotes{}", key_, example()));
    if (value->get().find('\0') != std::string::npos) fail(key_ + " holds a NUL character");
    return value->get();
  }
  std::string word() const {
    std::string result = text();
    if (result.empty()) fail(key_ + " is empty; leave it out for its default");
    const bool odd = std::any_of(result.begin(), result.end(),
                                 [](unsigned char c) { return c < 0x20 || c == 0x7f; });
    if (odd) fail(key_ + " holds a control character");
    return result;
  }
  std::int64_t integer(std::int64_t least, std::int64_t most) const {
    const auto* value = node_.as_integer();
    if (value == nullptr) fail(key_ + " must be a whole number");
    if (value->get() < least || value->get() > most) {
      fail(fmt::format("{} must be between {} and {}, not {}", key_, least, most, value->get()));
    }
    return value->get();
  }
  double number() const {
    if (!node_.is_number()) fail(key_ + " must be a number");
    const double value = node_.value<double>().value_or(-1);
    if (!std::isfinite(value) || value < 0) fail(key_ + " must be 0 or more");
    return value;
  }
  bool flag() const {
    const auto* value = node_.as_boolean();
    if (value == nullptr) fail(key_ + " must be true or false");
    return value->get();
  }
  std::string choice(const std::vector<std::string_view>& words) const {
    std::string result = text();
    if (std::find(words.begin(), words.end(), result) != words.end()) return result;
    fail(fmt::format("{} must be \"{}\", not {}", key_, fmt::join(words, "\" or \""),
                     quote(result)));
  }
  // A file or folder of this machine.
  std::string path() const {
    std::string given = word();
    if (given == "~" || given.starts_with("~/")) return home_folder() + given.substr(1);
    if (given.starts_with('~')) {
      fail(fmt::format("{}: {} is another user's folder; write its path", key_, quote(given)));
    }
    if (given.starts_with('/')) return given;
    if (place_.folder.empty()) {
      fail(
          fmt::format("{}: {} is a relative path, and there is no file that it could count from; "
                      "write an absolute one",
                      key_, quote(given)));
    }
    return (std::filesystem::path(place_.folder) / given).lexically_normal().string();
  }
  std::vector<Value> items() const {
    const auto* array = node_.as_array();
    if (array == nullptr) {
      fail(fmt::format("{} must be a list: {} = [\"...\"]", key_, key_));
    }
    std::vector<Value> result;
    for (const toml::node& item : *array) result.emplace_back(place_, "an entry of " + key_, item);
    return result;
  }
  // Names and texts. The texts may be secrets: no message repeats them.
  std::vector<std::pair<std::string, std::string>> variables() const {
    const auto* table = node_.as_table();
    if (table == nullptr) fail(key_ + " must be a table: " + key_ + " = { NAME = \"value\" }");
    std::vector<std::pair<std::string, std::string>> result;
    for (const auto& [name, node] : *table) {
      const std::string variable(name.str());
      const Value value(place_, key_ + "." + variable, node);
      const bool usable = !variable.empty() &&
                          variable.find_first_of("=\n\r\t ") == variable.npos &&
                          variable.find('\0') == variable.npos;
      if (!usable) place_.fail(name.source(), quote(variable) + " is not the name of a variable");
      result.emplace_back(variable, value.text());
    }
    return result;
  }
  const toml::node& node() const { return node_; }

 private:
  std::string example() const {
    return node_.is_number() && key_ == "python" ? ": python = \"3.11\"" : "";
  }

  const Place& place_;
  std::string key_;
  const toml::node& node_;
};

}  // namespace muster
