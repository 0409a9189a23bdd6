// The limit of descriptors is raised for this process only. The checks run in children, for the
// limit belongs to a process.
#include "common/system/descriptor_limit.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>

namespace muster {
namespace {

class DescriptorLimit : public ::testing::Test {
 protected:
  // Whether `check` holds in a child of this process whose limits are these.
  template <typename Check>
  static bool holds(rlim_t soft, rlim_t hard, Check&& check) {
    const pid_t child = ::fork();
    if (child == 0) {
      const rlimit limit{soft, hard};
      ::_exit(::setrlimit(RLIMIT_NOFILE, &limit) == 0 && check() ? 0 : 1);
    }
    int status = -1;
    ::waitpid(child, &status, 0);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
  }
  static rlim_t soft() {
    rlimit limit{};
    ::getrlimit(RLIMIT_NOFILE, &limit);
    return limit.rlim_cur;
  }
};

TEST_F(DescriptorLimit, IsRaisedToTheHardOneAndGivenBackToChildren) {
  EXPECT_TRUE(holds(100, 200, [] {
    if (raise_descriptor_limit() != 200 || soft() != 200) return false;
    if (raise_descriptor_limit() != 200 || original_descriptor_limit()->rlim_cur != 100) {
      return false;
    }
    restore_descriptor_limit();
    return soft() == 100;
  }));
}

TEST_F(DescriptorLimit, ThatIsTheHardOneStays) {
  EXPECT_TRUE(holds(100, 100, [] {
    if (raise_descriptor_limit() != 100 || original_descriptor_limit()) return false;
    restore_descriptor_limit();
    return soft() == 100;
  }));
}

TEST_F(DescriptorLimit, IsNearWhenTheLastEighthBegins) {
  EXPECT_TRUE(holds(80, 80, [] {
    bool near = false;
    for (int count = 0; !near; ++count) {
      const int opened = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
      if (opened < 0) return false;
      near = is_near_descriptor_limit(opened);
      if (near != (opened >= 70)) return false;
    }
    return true;
  }));
}

TEST_F(DescriptorLimit, ExhaustionMayPassAndOtherErrorsStay) {
  for (const int passing : {EMFILE, ENFILE, EAGAIN, ENOMEM}) EXPECT_TRUE(is_exhaustion(passing));
  for (const int lasting : {0, ENOENT, EACCES, EPERM}) EXPECT_FALSE(is_exhaustion(lasting));
}

}  // namespace
}  // namespace muster
