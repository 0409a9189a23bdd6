#include "worker/runner/output_gate.hpp"

#include <algorithm>
#include <utility>

namespace muster {
namespace {

constexpr Duration kSlice = Duration(std::chrono::seconds(1)) / OutputGate::kLinesPerSecond;

bool continues_character(char byte) { return (static_cast<unsigned char>(byte) & 0xc0U) == 0x80U; }

}  // namespace

void cut_text(std::string& text, std::size_t limit_bytes) {
  if (text.size() <= limit_bytes) return;
  std::size_t end = limit_bytes;
  while (end > 0 && continues_character(text[end])) --end;
  text.resize(end);
}

message::WorkerOutput& OutputGate::batch_of(const SessionId& session, JobId job, Time now) {
  if (waiting_.empty()) since_ = now;
  if (waiting_.empty() || waiting_.back().session != session || waiting_.back().job != job ||
      lines_ >= limits::kMaxOutputLines) {
    waiting_.push_back({session, job, {}, 0});
    lines_ = 0;
  }
  return waiting_.back();
}

void OutputGate::add(const SessionId& session, JobId job, message::OutputLine&& line, Time now) {
  message::WorkerOutput& batch = batch_of(session, job, now);
  spent_until_ = std::max(spent_until_, now);
  if (spent_until_ - now >= kBurstLines * kSlice) {
    ++batch.dropped;
    return;
  }
  spent_until_ += kSlice;
  cut_text(line.text, limits::kMaxLineBytes);
  cut_text(line.name, limits::kMaxNameBytes);
  batch.lines.push_back(std::move(line));
  ++lines_;
}

std::vector<message::WorkerOutput> OutputGate::take() {
  lines_ = 0;
  return std::exchange(waiting_, {});
}

}  // namespace muster
