// What a machine lets the worker use, told by folders that look like the kernel's.
#include "worker/system/machine.hpp"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "tests/support/child.hpp"

namespace muster {
namespace {

class Machine : public ::testing::Test {
 protected:
  Machine() {
    files_.proc = folder_.path("proc");
    files_.cgroup = folder_.path("cgroup");
    files_.dev = folder_.path("dev");
    ::unsetenv("CUDA_VISIBLE_DEVICES");
    write("proc/meminfo", "MemTotal:  8000000 kB\nMemFree: 1 kB\n");
  }
  void write(const std::string& name, const std::string& text) {
    const std::filesystem::path path(folder_.path(name));
    std::filesystem::create_directories(path.parent_path());
    std::ofstream(path) << text;
  }
  testing::TemporaryFolder folder_;
  MachineFiles files_;
};

constexpr std::uint64_t kTotal = std::uint64_t{8'000'000} << 10;

TEST_F(Machine, WithoutCgroupsItIsTheMachines) {
  EXPECT_EQ(usable_memory(files_), kTotal);
  EXPECT_EQ(usable_cores(files_), usable_cores({"/nowhere", "/nowhere", "/nowhere"}));
}

TEST_F(Machine, TheTightestCgroupOfVersion2Counts) {
  write("proc/self/cgroup", "0::/user.slice/worker.service\n");
  write("cgroup/user.slice/worker.service/memory.max", "max\n");
  write("cgroup/user.slice/memory.max", "3000000000\n");
  write("cgroup/user.slice/worker.service/cpu.max", "150000 100000\n");
  write("cgroup/user.slice/cpu.max", "max 100000\n");
  EXPECT_EQ(usable_memory(files_), 3'000'000'000U);
  EXPECT_LE(usable_cores(files_), 2U);
  write("cgroup/user.slice/cpu.max", "50000 100000\n");
  EXPECT_EQ(usable_cores(files_), 1U);
}

TEST_F(Machine, TheTightestCgroupOfVersion1Counts) {
  write("proc/self/cgroup", "5:memory:/jobs/1\n4:cpu,cpuacct:/jobs/1\n1:name=systemd:/\n0::/\n");
  write("cgroup/memory/jobs/1/memory.limit_in_bytes", "2000000000\n");
  write("cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
  write("cgroup/cpu,cpuacct/jobs/1/cpu.cfs_quota_us", "100000\n");
  write("cgroup/cpu,cpuacct/jobs/1/cpu.cfs_period_us", "100000\n");
  write("cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1\n");
  write("cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(usable_memory(files_), 2'000'000'000U);
  EXPECT_EQ(usable_cores(files_), 1U);
}

TEST_F(Machine, GpusAreThoseOfTheEnvironmentOrTheDevices) {
  using Names = std::vector<std::string>;
  EXPECT_EQ(find_gpus("", files_), Names{});
  for (const char* name : {"dev/nvidia10", "dev/nvidia2", "dev/nvidiactl", "dev/nvidia-uvm"}) {
    write(name, "");
  }
  EXPECT_EQ(find_gpus("", files_), (Names{"2", "10"}));
  ::setenv("CUDA_VISIBLE_DEVICES", "3,GPU-12ab,-1,4", 1);
  EXPECT_EQ(find_gpus("", files_), (Names{"3", "GPU-12ab"}));
  ::setenv("CUDA_VISIBLE_DEVICES", "", 1);
  EXPECT_EQ(find_gpus("", files_), Names{});
  ::unsetenv("CUDA_VISIBLE_DEVICES");
  EXPECT_EQ(find_gpus("none", files_), Names{});
  EXPECT_EQ(find_gpus("0", files_), Names{});
  EXPECT_EQ(find_gpus("2", files_), (Names{"0", "1"}));
  EXPECT_EQ(find_gpus("0,2", files_), (Names{"0", "2"}));
  EXPECT_EQ(find_gpus("3,", files_), Names{"3"});
  EXPECT_THROW(find_gpus("1,1", files_), std::runtime_error);
  EXPECT_THROW(find_gpus(",", files_), std::runtime_error);
  EXPECT_THROW(find_gpus("5000", files_), std::runtime_error);
  EXPECT_EQ(join_gpus({"3", "GPU-12ab", "7"}, {0, 2}), "3,7");
}

}  // namespace
}  // namespace muster
