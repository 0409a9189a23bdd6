#include "producer/cli/run/command_template.hpp"

#include <algorithm>
#include <array>
#include <utility>

namespace muster {
namespace {

constexpr std::string_view kHarmless =
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.+/";
constexpr std::string_view kShellCharacters = " \t\n|&;<>()$`\\\"'*?[#~";

std::string_view without_extension(std::string_view text) {
  const auto dot = text.find_last_of("./");
  if (dot == std::string_view::npos || text[dot] == '/' || dot + 1 == text.size()) return text;
  return text.substr(0, dot);
}

std::string_view base_name(std::string_view text) {
  const auto slash = text.rfind('/');
  return slash == std::string_view::npos ? text : text.substr(slash + 1);
}

// As dirname(1).
std::string_view directory_name(std::string_view text) {
  const auto end = text.find_last_not_of('/');
  if (end == std::string_view::npos) return text.empty() ? "." : "/";
  const auto slash = text.rfind('/', end);
  if (slash == std::string_view::npos) return ".";
  const auto last = text.find_last_not_of('/', slash);
  return last == std::string_view::npos ? "/" : text.substr(0, last + 1);
}

}  // namespace

std::string shell_quote(std::string_view text) {
  if (text.empty()) return "''";
  if (text.find_first_not_of(kHarmless) == std::string_view::npos) return std::string(text);
  std::string quoted = "'";
  for (const char character : text) {
    if (character == '\'') {
      quoted += "'\"'\"'";
    } else {
      quoted += character;
    }
  }
  quoted += "'";
  if (quoted.starts_with("''")) quoted.erase(0, 2);
  if (quoted.ends_with("''")) quoted.erase(quoted.size() - 2);
  return quoted;
}

CommandTemplate::CommandTemplate(const std::vector<std::string>& words, bool use_shell)
    : mode_(use_shell ? CommandMode::shell : CommandMode::argv) {
  if (words.empty()) {
    mode_ = CommandMode::input_lines;
    return;
  }
  if (words.size() == 1 && words[0].find_first_of(kShellCharacters) != std::string::npos) {
    mode_ = CommandMode::shell;
  }
  bool has_placeholder = false;
  for (const auto& word : words) {
    words_.emplace_back(word);
    has_placeholder |= !words_.back().is_constant();
  }
  if (!has_placeholder) words_.emplace_back("{}");
}

WordTemplate::WordTemplate(std::string_view word) {
  static constexpr std::array<std::pair<std::string_view, Kind>, 6> kPlaceholders{{
      {"{}", Kind::input},
      {"{.}", Kind::no_extension},
      {"{/}", Kind::base},
      {"{//}", Kind::directory},
      {"{/.}", Kind::base_no_extension},
      {"{#}", Kind::number},
  }};
  std::string literal;
  const auto end_literal = [&] {
    if (!literal.empty()) pieces_.push_back({Kind::literal, std::exchange(literal, {})});
  };
  while (!word.empty()) {
    bool matched = false;
    for (const auto& [text, kind] : kPlaceholders) {
      if (!word.starts_with(text)) continue;
      end_literal();
      pieces_.push_back({kind, ""});
      word.remove_prefix(text.size());
      matched = true;
      break;
    }
    if (matched) continue;
    literal += word.front();
    word.remove_prefix(1);
  }
  end_literal();
}

bool WordTemplate::is_constant() const {
  return std::all_of(pieces_.begin(), pieces_.end(),
                     [](const Piece& piece) { return piece.kind == Kind::literal; });
}

std::string WordTemplate::value(const Piece& piece, std::string_view input, std::uint64_t number) {
  switch (piece.kind) {
    case Kind::literal:
      return piece.text;
    case Kind::input:
      return std::string(input);
    case Kind::no_extension:
      return std::string(without_extension(input));
    case Kind::base:
      return std::string(base_name(input));
    case Kind::directory:
      return std::string(directory_name(input));
    case Kind::base_no_extension:
      return std::string(without_extension(base_name(input)));
    case Kind::number:
      return std::to_string(number);
  }
  return {};
}

std::string WordTemplate::expand(std::string_view input, std::uint64_t number, bool quote) const {
  std::string text;
  for (const auto& piece : pieces_) {
    const std::string part = value(piece, input, number);
    text += quote && piece.kind != Kind::literal ? shell_quote(part) : part;
  }
  return text;
}

std::vector<std::string> CommandTemplate::argv(std::string_view input, std::uint64_t number) const {
  if (mode_ != CommandMode::argv) return {"/bin/sh", "-c", line(input, number)};
  std::vector<std::string> arguments;
  arguments.reserve(words_.size());
  for (const auto& word : words_) arguments.push_back(word.expand(input, number));
  return arguments;
}

std::string CommandTemplate::line(std::string_view input, std::uint64_t number) const {
  if (mode_ == CommandMode::input_lines) return std::string(input);
  const bool shell = mode_ == CommandMode::shell;
  std::string text;
  for (const auto& word : words_) {
    if (!text.empty()) text += ' ';
    text += shell ? word.expand(input, number, true) : shell_quote(word.expand(input, number));
  }
  return text;
}

}  // namespace muster
