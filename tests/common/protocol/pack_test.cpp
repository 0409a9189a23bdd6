// The public packing of arguments and results, and the bytes they live in.
#include <gtest/gtest.h>

#include <map>
#include <muster/pack.hpp>
#include <optional>
#include <vector>

namespace muster {
namespace {

Bytes msgpack_bytes(std::string_view text) { return Bytes::copy(text); }

template <typename Call>
std::string error_of(Call call) {
  try {
    call();
  } catch (const PackError& error) {
    return error.what();
  }
  return "";
}

TEST(Bytes, CopiesShareTheirOwnerAndSlicesAreViews) {
  const Bytes bytes = Bytes::copy("hello world");
  const Bytes same = bytes;  // NOLINT(performance-unnecessary-copy-initialization)
  EXPECT_EQ(same.data(), bytes.data());
  const Bytes word = bytes.slice(6, 5);
  EXPECT_EQ(word.text(), "world");
  EXPECT_EQ(word.owner(), bytes.owner());
  EXPECT_EQ(bytes.slice(11, 0).size(), 0U);
  EXPECT_EQ(bytes, Bytes::borrow("hello world"));
  EXPECT_FALSE(bytes == word);
}

TEST(Bytes, NoBytesNeedNoMemory) {
  EXPECT_TRUE(Bytes().empty());
  EXPECT_EQ(Bytes::copy(nullptr, 0), Bytes());
  EXPECT_EQ(Bytes::copy("").owner(), nullptr);
  EXPECT_EQ(Bytes::borrow("static").owner(), nullptr);
}

TEST(Bytes, ASliceKeepsTheMemoryAlive) {
  Bytes part;
  {
    const Bytes whole = Bytes::copy(std::string(100'000, 'k'));
    part = whole.slice(99'999, 1);
  }
  EXPECT_EQ(part.text(), "k");
}

TEST(BytesArena, SmallRunsShareAChunkAndStayIntact) {
  BytesArena arena;
  std::vector<Bytes> runs;
  for (int i = 0; i < 10'000; ++i) runs.push_back(arena.append(std::to_string(i).data(), 1));
  for (int i = 0; i < 10'000; ++i) {
    ASSERT_EQ(runs[static_cast<std::size_t>(i)].text(), std::to_string(i).substr(0, 1));
  }
  EXPECT_EQ(runs[0].owner(), runs[1].owner());
  EXPECT_EQ(arena.append("", 0), Bytes());
}

TEST(BytesArena, ALargeRunGetsAChunkOfItsOwn) {
  BytesArena arena;
  const Bytes small = arena.append("s", 1);
  const std::string text(10 * BytesArena::kChunkBytes, 'L');
  const Bytes large = arena.append(text.data(), text.size());
  EXPECT_EQ(large.text(), text);
  EXPECT_NE(large.owner(), small.owner());
  std::byte* memory = arena.reserve(100);
  std::memset(memory, 'r', 100);
  EXPECT_EQ(arena.take(40).text(), std::string(40, 'r')) << "only what is taken is used";
  EXPECT_EQ(small.text(), "s");
}

TEST(Pack, ValuesOfManyTypesComeBack) {
  const auto back = [](const auto& value) {
    return unpack_value<std::decay_t<decltype(value)>>(pack_value(value)) == value;
  };
  EXPECT_TRUE(back(42));
  EXPECT_TRUE(back(INT64_MIN));
  EXPECT_TRUE(back(UINT64_MAX));
  EXPECT_TRUE(back(-2.5));
  EXPECT_TRUE(back(true));
  EXPECT_TRUE(back(std::string("grüße\0", 8)));
  EXPECT_TRUE(back(std::vector<double>(5000, 1.5)));
  EXPECT_TRUE(back(std::map<std::string, std::vector<int>>{{"a", {1, 2}}, {"b", {}}}));
  EXPECT_TRUE(back(std::tuple<int, std::string>{1, "one"}));
  EXPECT_TRUE(back(std::optional<int>{}));
  EXPECT_TRUE(back(Bytes::copy("raw \xff bytes")));
}

TEST(Pack, BytesReadTextToo) {
  EXPECT_EQ(unpack_value<Bytes>(pack_value(std::string("text"))), Bytes::borrow("text"));
}

TEST(Pack, AnArenaPacksTheSameBytes) {
  BytesArena arena;
  EXPECT_EQ(pack_value(arena, std::string("x")), pack_value(std::string("x")));
  EXPECT_EQ(pack_value(7), Bytes::borrow("\x07"));
  EXPECT_EQ(pack_arguments(arena, 7, true), Bytes::borrow("\x92\x07\xc3"));
  EXPECT_EQ(pack_arguments(arena), Bytes::borrow("\x90"));
}

TEST(Pack, ArgumentsComeBackInOrder) {
  BytesArena arena;
  const Bytes packed = pack_arguments(arena, 1, std::string("two"), std::vector<int>{3});
  const auto [one, two, three] = unpack_arguments<int, std::string, std::vector<int>>(packed);
  EXPECT_EQ(one, 1);
  EXPECT_EQ(two, "two");
  EXPECT_EQ(three, std::vector<int>{3});
  EXPECT_EQ(unpack_arguments<>(pack_arguments(arena)), std::tuple<>());
}

TEST(Pack, ErrorsSayWhatWasExpected) {
  BytesArena arena;
  const Bytes two = pack_arguments(arena, 1, std::string("x"));
  EXPECT_EQ(error_of([&] { unpack_arguments<int>(two); }), "takes 1 arguments, got 2");
  EXPECT_EQ(error_of([&] { unpack_arguments<int, int>(two); }), "argument 2 has the wrong type");
  EXPECT_EQ(error_of([&] { unpack_arguments<std::string, std::string>(two); }),
            "argument 1 has the wrong type");
  EXPECT_EQ(error_of([&] { unpack_arguments<int>(pack_value(1)); }),
            "the payload is not an argument array");
  EXPECT_NE(error_of([&] { unpack_value<int>(pack_value(std::string("x"))); }).find("another type"),
            std::string::npos);
  EXPECT_NE(error_of([&] { unpack_value<std::int8_t>(pack_value(128)); }), "");
  EXPECT_NE(error_of([&] { unpack_value<unsigned>(pack_value(-1)); }), "");
  EXPECT_NE(error_of([&] { unpack_value<int>(msgpack_bytes("\x01\x02")); }).find("follow"),
            std::string::npos);
}

TEST(Pack, DamagedAndHostileBytesAreErrors) {
  const auto refused = [](std::string_view text) {
    return !error_of([&] { unpack_value<std::vector<int>>(msgpack_bytes(text)); }).empty();
  };
  EXPECT_TRUE(refused(""));
  EXPECT_TRUE(refused("\xc1"));
  EXPECT_TRUE(refused("\x92\x01"));
  EXPECT_TRUE(refused("\xdd\xff\xff\xff\xff"));            // an array of 4 Gi
  EXPECT_TRUE(refused("\xc6\xff\xff\xff\xff"));            // 4 GiB of bytes
  EXPECT_TRUE(refused(std::string(100'000, '\x91')));      // arrays in arrays
  EXPECT_TRUE(refused(std::string(66, '\x91') + "\x01"));  // just too deep
}

TEST(Pack, NothingIsAValue) {
  EXPECT_EQ(pack_value(Nothing{}), Bytes::borrow("\xc0"));
  EXPECT_NO_THROW(unpack_value<void>(pack_value(Nothing{})));
}

}  // namespace
}  // namespace muster
