// How `muster-worker attach` ends: its exit codes, which the broker reads
// (worker/attach/attach.hpp).
#pragma once

namespace muster {

inline constexpr int kAttachEnded = 0;       // the worker ended as it was told to, or the input did
inline constexpr int kAttachUnusable = 2;    // no worker can run here; standard error says why
inline constexpr int kAttachLostWorker = 3;  // the worker ended by itself or was killed
inline constexpr int kAttachTaken = 5;       // another attach took the worker over
inline constexpr int kAttachNotRunnable = 126;  // the shell's: no permission to execute it
// Something must be uploaded first; its output says what.
inline constexpr int kAttachMissing = 127;

}  // namespace muster
