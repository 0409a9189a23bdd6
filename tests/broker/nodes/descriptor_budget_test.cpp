// Nodes beyond what the descriptors are enough for are refused with numbers.
#include "broker/nodes/descriptor_budget.hpp"

#include <gtest/gtest.h>

#include <vector>

namespace muster {
namespace {

std::vector<Host> hosts(std::size_t count, Via via = Via::libssh) {
  Host host;
  host.via = via;
  return std::vector<Host>(count, host);
}

TEST(DescriptorBudget, TheUsualLimitFitsAHundredNodesAndAllOthersAreCounted) {
  const DescriptorUse usual{1024, 30};
  EXPECT_EQ(descriptor_complaint({}, hosts(132), usual), "");
  const std::string complaint = descriptor_complaint({}, hosts(200), usual);
  EXPECT_EQ(complaint.find("132 of these 200 nodes fit"), 0U) << complaint;
  EXPECT_NE(complaint.find("a hard limit of at least 1494"), std::string::npos) << complaint;
  EXPECT_EQ(descriptor_complaint({}, hosts(200), {1494, 30}), "") << "as it says";
}

TEST(DescriptorBudget, NodesThatAreUpAreNotCountedTwice) {
  const std::vector<Host> present = hosts(100);
  EXPECT_EQ(descriptor_complaint(present, hosts(32), {1024, 730}), "");
  EXPECT_NE(descriptor_complaint(present, hosts(33), {1024, 730}), "");
  EXPECT_EQ(descriptor_complaint(present, hosts(32), {1024, 30}), "") << "also while they connect";
}

TEST(DescriptorBudget, SshItselfTakesMore) {
  EXPECT_EQ(descriptor_complaint({}, hosts(93, Via::openssh), {1024, 30}), "");
  const std::string complaint = descriptor_complaint({}, hosts(94, Via::openssh), {1024, 30});
  EXPECT_EQ(complaint.find("93 of these 94 nodes fit"), 0U) << complaint;
}

TEST(DescriptorBudget, ThisProcessIsLookedAt) {
  const DescriptorUse use = descriptors_in_use();
  EXPECT_GT(use.limit, use.opened);
  EXPECT_GE(use.opened, 3U);
}

}  // namespace
}  // namespace muster
