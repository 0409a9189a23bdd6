// The command of `muster run`: words with replacement strings, and what they become for an input.
// Pure. Threads: a CommandTemplate is immutable; use it anywhere. The replacement strings and the
// quoting are those of GNU parallel (its manual, "--quote" and the replacement strings).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace muster {

// `text` as one word of a POSIX shell; text of harmless characters stays as it is.
std::string shell_quote(std::string_view text);

enum class CommandMode {
  argv,         // run as it is, without a shell
  shell,        // the words are joined with spaces and run by /bin/sh -c; inputs are quoted
  input_lines,  // no command was given: each input is itself a shell command
};

// One word with replacement strings.
class WordTemplate {
 public:
  explicit WordTemplate(std::string_view word);
  // `quote`: what is put in becomes a part of a shell's word.
  std::string expand(std::string_view input, std::uint64_t number, bool quote = false) const;
  bool is_constant() const;

 private:
  enum class Kind { literal, input, no_extension, base, directory, base_no_extension, number };
  struct Piece {
    Kind kind = Kind::literal;
    std::string text;
  };
  static std::string value(const Piece& piece, std::string_view input, std::uint64_t number);

  std::vector<Piece> pieces_;
};

class CommandTemplate {
 public:
  // No words: input_lines. One word with white space or shell characters: shell, as `use_shell`.
  CommandTemplate(const std::vector<std::string>& words, bool use_shell);

  CommandMode mode() const { return mode_; }
  // What to execute for the `number`-th input, counted from 1.
  std::vector<std::string> argv(std::string_view input, std::uint64_t number) const;
  // The same as one line that a shell would run: for --dry-run, --verbose and the job log.
  std::string line(std::string_view input, std::uint64_t number) const;

 private:
  CommandMode mode_;
  std::vector<WordTemplate> words_;
};

}  // namespace muster
