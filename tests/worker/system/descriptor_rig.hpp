// What happens to descriptors around an executor: copies in other processes, and none left.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <utility>
#include <vector>

#include "common/system/descriptor.hpp"

namespace muster {

// A process that holds a copy of every descriptor that this process has now, as a child does that
// is just being executed, only longer.
class CopyHolder {
 public:
  CopyHolder() : process_(::fork()) {
    if (process_ != 0) return;
    while (true) ::pause();
  }
  ~CopyHolder() {
    ::kill(process_, SIGKILL);
    ::waitpid(process_, nullptr, 0);
  }
  CopyHolder(const CopyHolder&) = delete;
  CopyHolder& operator=(const CopyHolder&) = delete;

 private:
  const pid_t process_;
};

// Ends this program when a loop blocks, which nothing inside of it could notice.
class BlockAlarm {
 public:
  BlockAlarm() { ::alarm(60); }
  ~BlockAlarm() { ::alarm(0); }
  BlockAlarm(const BlockAlarm&) = delete;
  BlockAlarm& operator=(const BlockAlarm&) = delete;
};

// Takes every descriptor that this process may still open, until its end.
class NoDescriptors {
 public:
  NoDescriptors() {
    ::getrlimit(RLIMIT_NOFILE, &before_);
    const rlimit low{256, before_.rlim_max};
    EXPECT_EQ(::setrlimit(RLIMIT_NOFILE, &low), 0);
    while (true) {
      Descriptor taken(::open("/dev/null", O_RDONLY | O_CLOEXEC));
      if (!taken) return;
      taken_.push_back(std::move(taken));
    }
  }
  ~NoDescriptors() {
    taken_.clear();
    ::setrlimit(RLIMIT_NOFILE, &before_);
  }
  NoDescriptors(const NoDescriptors&) = delete;
  NoDescriptors& operator=(const NoDescriptors&) = delete;

 private:
  rlimit before_{};
  std::vector<Descriptor> taken_;
};

}  // namespace muster
