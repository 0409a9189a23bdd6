#include "producer/client/outcome_error.hpp"

#include <algorithm>
#include <memory>
#include <span>
#include <utility>

#include "common/printable.hpp"
#include "common/protocol/blob_names.hpp"
#include "common/protocol/codec.hpp"
#include "producer/blobs/blob_keeper.hpp"

namespace muster {
namespace {

ErrorCode code_of(OutcomeStatus status, const std::string& kind) {
  if (kind == "no_worker") return ErrorCode::no_worker;
  switch (status) {
    case OutcomeStatus::result:
    case OutcomeStatus::error:
      return ErrorCode::task_failed;
    case OutcomeStatus::timed_out:
      return ErrorCode::task_timed_out;
    case OutcomeStatus::cancelled:
      return ErrorCode::task_cancelled;
    case OutcomeStatus::lost:
      return ErrorCode::task_lost;
  }
  return ErrorCode::task_failed;
}

std::string kind_of(message::RefuseCode code) {
  switch (code) {
    case message::RefuseCode::version:
      return "version";
    case message::RefuseCode::malformed:
      return "malformed";
    case message::RefuseCode::over_limit:
      return "over_limit";
    case message::RefuseCode::out_of_order:
      return "out_of_order";
    case message::RefuseCode::identity:
      return "identity";
  }
  return "refused";
}

// The same bytes, which keep the blob that they are of.
Bytes together(const Blob& blob, Bytes bytes) {
  const std::span<const std::byte> view = bytes.span();
  return {std::make_shared<std::pair<Blob, Bytes>>(blob, std::move(bytes)), view};
}

}  // namespace

OpenedOutcome open_outcome(const Outcome& outcome, Consumed consumed) {
  Payload payload = outcome.body;
  std::vector<Blob> blobs = detail::take_blobs(payload);
  std::optional<Bytes> body;
  if (is_one_blob(payload)) {
    try {
      body = blobs.front().bytes();
      if (consumed == Consumed::with_its_bytes) body = together(blobs.front(), *std::move(body));
    } catch (const BlobError& error) {
      return {Error(ErrorCode::task_lost, "blob_lost",
                    std::string("the result is lost: ") + error.what()),
              {}};
    }
    blobs.clear();
  } else {
    body = unpack_payload(payload);
  }
  if (!body) {
    return {Error(ErrorCode::task_failed, "unreadable",
                  "the outcome arrived damaged: its packed bytes cannot be unpacked"),
            {}};
  }
  if (outcome.status == OutcomeStatus::result) return {*std::move(body), std::move(blobs)};
  Failure failure = decode_failure(*body);
  const ErrorCode code = code_of(outcome.status, failure.kind);
  // A node's words, which will be shown on somebody's terminal.
  return {Error(code, printable_line(failure.kind), printable(failure.message),
                printable(failure.traceback), std::move(failure.extra)),
          std::move(blobs)};
}

Error refusal(const message::Refuse& refuse) {
  return {ErrorCode::refused, kind_of(refuse.code), "the broker refused: " + refuse.text};
}

std::chrono::steady_clock::time_point detail::deadline_after(std::chrono::nanoseconds timeout) {
  constexpr std::chrono::hours kCentury{24 * 365 * 100};
  return std::chrono::steady_clock::now() +
         std::clamp<std::chrono::nanoseconds>(timeout, std::chrono::nanoseconds(0), kCentury);
}

}  // namespace muster
