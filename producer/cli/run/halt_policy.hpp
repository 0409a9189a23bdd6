// When `muster run` stops early (--halt), and with which status it ends. Pure.
// Threads: one HaltPolicy belongs to one thread. The rules and the exit statuses are those of GNU
// parallel (its manual, "--halt" and "EXIT STATUS").
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace muster {

struct HaltRule {
  enum class When { never, now, soon };
  enum class Why { fail, success, done };
  When when = When::never;
  Why why = Why::fail;
  double value = 0;      // jobs, or per cent of all jobs
  bool percent = false;  // needs the number of all jobs before the first one is judged
};

// "never", "WHEN,WHY=N" or "WHEN,WHY=N%" with WHEN `now` or `soon` and WHY `fail`, `success` or
// `done`; also the old forms 0, 1, 2, -1, -2 and N%. Nothing: it is none of these.
std::optional<HaltRule> parse_halt(std::string_view text);

class HaltPolicy {
 public:
  // `total_jobs` is used by per cent rules only.
  HaltPolicy(HaltRule rule, std::uint64_t total_jobs) : rule_(rule), total_(total_jobs) {}

  // A job ended. `exit_status` is what a shell would call $?: 128 + signal after a signal.
  void finished(int exit_status);

  // What is to be done now; `never` as long as the rule is not fulfilled.
  HaltRule::When verdict() const { return reached_ ? rule_.when : HaltRule::When::never; }
  std::uint64_t failed() const { return failed_; }
  std::uint64_t done() const { return done_; }
  // 0-101, or the status of the job that fulfilled a rule about one job.
  int exit_status() const;

 private:
  HaltRule rule_;
  std::uint64_t total_;
  std::uint64_t failed_ = 0;
  std::uint64_t done_ = 0;
  bool reached_ = false;
  int reached_status_ = 0;
};

}  // namespace muster
