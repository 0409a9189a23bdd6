// What the scanner makes of a connection's bytes, however they are cut.
#include "common/net/zmtp_scanner.hpp"

#include <gtest/gtest.h>

#include "common/protocol/limits.hpp"
#include "tests/support/zmtp.hpp"

namespace muster {
namespace {

using Verdict = ZmtpScanner::Verdict;
using testing::zmtp_frame;
using testing::zmtp_greeting;
using testing::zmtp_last_part;
using testing::zmtp_part;
using testing::zmtp_ready;

// The first verdict that is not fine, with `bytes` in pieces of every size up to 70.
Verdict verdict_on(const std::string& bytes) {
  ZmtpScanner whole;
  const Verdict verdict = whole.read(bytes);
  for (std::size_t step = 1; step <= 70; ++step) {
    ZmtpScanner scanner;
    Verdict in_pieces = Verdict::fine;
    for (std::size_t at = 0; at < bytes.size() && in_pieces == Verdict::fine; at += step) {
      in_pieces = scanner.read(std::string_view(bytes).substr(at, step));
    }
    EXPECT_EQ(in_pieces, verdict) << "in pieces of " << step;
  }
  return verdict;
}

TEST(ZmtpScanner, HonestConnectionsAreFine) {
  const std::string messages = zmtp_last_part("") + zmtp_part("head") + zmtp_part("") +
                               zmtp_last_part(std::string(300, 'x')) + std::string("\0\3abc", 5);
  EXPECT_EQ(verdict_on(zmtp_greeting() + zmtp_ready() + messages), Verdict::fine);
  EXPECT_EQ(verdict_on(zmtp_greeting("PLAIN") + zmtp_frame("\5HELLO\1u\1p", 4) +
                       zmtp_frame("\x08INITIATE", 4) + messages),
            Verdict::fine);
  EXPECT_EQ(verdict_on(zmtp_greeting().substr(0, 11)), Verdict::fine) << "not all of it is here";
}

TEST(ZmtpScanner, WhatIsNotZmtp3IsForeign) {
  for (const std::string& bytes :
       {std::string("GET / HTTP/1.1"), std::string("\1\0", 2), std::string(64, '\0'),
        std::string("\xff\0\0\0\0\0\0\0\1\x7f\1\5", 12),     // ZMTP 2
        std::string("\xff\0\0\0\0\0\0\0\1\x7e\3\1", 12)}) {  // ZMTP 1, an id of 255 bytes
    EXPECT_EQ(verdict_on(bytes), Verdict::foreign) << bytes;
  }
  EXPECT_EQ(verdict_on(zmtp_greeting() + zmtp_frame(std::string(70'000, 'x'), 4)), Verdict::foreign)
      << "a command of a size that no command has";
}

TEST(ZmtpScanner, AClaimedIdIsFoundInBothKindsOfHandshake) {
  const std::string claim = testing::zmtp_property("Identity", std::string("\0abcd", 5));
  EXPECT_EQ(verdict_on(zmtp_greeting() + zmtp_ready("me")), Verdict::claims_id);
  EXPECT_EQ(verdict_on(zmtp_greeting() + zmtp_frame("\5READY" + claim, 4)), Verdict::claims_id);
  EXPECT_EQ(verdict_on(zmtp_greeting("PLAIN") + zmtp_frame("\5HELLO\1u\1p", 4) +
                       zmtp_frame("\x08INITIATE" + claim, 4)),
            Verdict::claims_id);
}

TEST(ZmtpScanner, AMessageMayHaveOneLargeFrameAndLittleBesides) {
  const std::string large(ZmtpScanner::kMaxUnfinishedBytes + 1, 'x');
  const std::string begin = zmtp_greeting() + zmtp_ready();
  ZmtpScanner one;
  EXPECT_EQ(one.read(begin + zmtp_part("head") + zmtp_part(large)), Verdict::fine);
  EXPECT_EQ(one.unfinished_bytes(), large.size() + 4);
  EXPECT_EQ(one.read(zmtp_last_part("end")), Verdict::fine);
  EXPECT_EQ(one.unfinished_bytes(), 0U);
  EXPECT_EQ(one.read(zmtp_last_part(large) + zmtp_last_part(large)), Verdict::fine)
      << "messages that end are as many as one likes";
  EXPECT_EQ(one.read(zmtp_part(large)), Verdict::fine);
  EXPECT_EQ(one.read(zmtp_part(large)), Verdict::endless);
}

TEST(ZmtpScanner, AMessageHasSoManyFramesAtMost) {
  ZmtpScanner scanner;
  EXPECT_EQ(scanner.read(zmtp_greeting() + zmtp_ready()), Verdict::fine);
  for (std::size_t i = 0; i < ZmtpScanner::kMaxUnfinishedFrames; ++i) {
    ASSERT_EQ(scanner.read(std::string("\1\0", 2)), Verdict::fine) << i;
  }
  EXPECT_EQ(scanner.read(std::string("\1\0", 2)), Verdict::endless);
}

TEST(ZmtpScanner, AFrameBeyondTheLimitIsRefusedByItsHeader) {
  EXPECT_EQ(verdict_on(zmtp_greeting() + zmtp_ready() + "\2\x7f" + std::string(7, '\xff')),
            Verdict::endless);
}

TEST(ZmtpScanner, NothingIsReadOfWhatCurveEncrypts) {
  ZmtpScanner scanner;
  EXPECT_EQ(scanner.read(zmtp_greeting("CURVE") + std::string(1000, '\xff')), Verdict::fine);
  EXPECT_TRUE(scanner.is_encrypted());
}

}  // namespace
}  // namespace muster
