// Typed values to payload bytes and back, through msgpack. Part of both public faces.
//
// Arguments of a native task travel as one msgpack array with one element per argument; a result
// travels as one msgpack value. Any type that msgpack-cxx can adapt works (integers, floats,
// strings, std::vector, std::map, std::tuple, std::optional, structs with MSGPACK_DEFINE, Bytes).
// A Blob, at any depth, travels as its name; its bytes go another way, once, for all tasks. A
// caller that packs asks `blobs_of` for those to send along; one that unpacks passes those that
// came along. Threads: the functions keep no state except a scratch buffer per thread; call them
// anywhere.
#pragma once

#include <map>
#include <msgpack.hpp>
#include <muster/blob.hpp>
#include <muster/bytes.hpp>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

namespace muster {

// The bytes do not hold a value of the type that was asked for. `what()` says what was expected.
class PackError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Stands for "no value": the result of a function that returns void.
using Nothing = msgpack::type::nil_t;

namespace pack_detail {

// Limits for decoding a payload: generous in size, strict in depth, so that a short hostile payload
// cannot ask for unbounded memory before its bytes are there (msgpack-cxx's own default is 4 Gi).
inline msgpack::unpack_limit limit_for(std::size_t size_bytes) {
  return {size_bytes, size_bytes, size_bytes, size_bytes, size_bytes, 64};
}

struct Scratch {
  std::string buffer;
  void write(const char* data, std::size_t size_bytes) { buffer.append(data, size_bytes); }
};

inline Scratch& scratch() {
  thread_local Scratch instance;
  instance.buffer.clear();
  if (instance.buffer.capacity() > std::size_t{1} << 20) instance.buffer.shrink_to_fit();
  return instance;
}

// Blobs on the way through msgpack, whose adaptors take no further arguments: per thread.
class BlobSink {
 public:
  virtual ~BlobSink() = default;
  // A blob is being packed: the one to name, itself or another of the same content.
  virtual Blob take(const Blob& blob) = 0;
};
struct BlobScope {
  BlobSink* sink = nullptr;     // null: blobs are packed as they are
  std::span<const Blob> known;  // where blobs that are unpacked are found
};
inline BlobScope& blob_scope() {
  thread_local BlobScope scope;
  return scope;
}
// Holds for its own life.
class WithBlobScope {
 public:
  explicit WithBlobScope(const BlobScope& scope) : before_(std::exchange(blob_scope(), scope)) {}
  ~WithBlobScope() { blob_scope() = before_; }
  WithBlobScope(const WithBlobScope&) = delete;
  WithBlobScope& operator=(const WithBlobScope&) = delete;

 private:
  const BlobScope before_;
};

class CollectBlobs final : public BlobSink {
 public:
  Blob take(const Blob& blob) override {
    for (const Blob& known : blobs) {
      if (known.is_same_as(blob)) return blob;
    }
    if (blob) blobs.push_back(blob);
    return blob;
  }
  std::vector<Blob> blobs;
};

// Whether a type is known to hold no blobs, so that none have to be looked for.
template <typename Type>
inline constexpr bool kHoldsNoBlobs = std::is_arithmetic_v<Type> || std::is_enum_v<Type>;
template <>
inline constexpr bool kHoldsNoBlobs<std::string> = true;
template <>
inline constexpr bool kHoldsNoBlobs<Bytes> = true;
template <>
inline constexpr bool kHoldsNoBlobs<Nothing> = true;
template <>
inline constexpr bool kHoldsNoBlobs<const char*> = true;
template <>
inline constexpr bool kHoldsNoBlobs<char*> = true;
template <typename Item>
inline constexpr bool kHoldsNoBlobs<std::vector<Item>> = kHoldsNoBlobs<Item>;
template <typename Item>
inline constexpr bool kHoldsNoBlobs<std::optional<Item>> = kHoldsNoBlobs<Item>;
template <typename Key, typename Item>
inline constexpr bool kHoldsNoBlobs<std::map<Key, Item>> = kHoldsNoBlobs<Key>&& kHoldsNoBlobs<Item>;
template <typename... Items>
inline constexpr bool kHoldsNoBlobs<std::tuple<Items...>> = (kHoldsNoBlobs<Items> && ...);
template <typename First, typename Second>
inline constexpr bool kHoldsNoBlobs<std::pair<First, Second>> =
    kHoldsNoBlobs<First>&& kHoldsNoBlobs<Second>;

struct Nowhere {
  void write(const char*, std::size_t) {}
};

inline msgpack::object_handle parse(const Bytes& bytes) {
  try {
    std::size_t offset = 0;
    auto handle = msgpack::unpack(
        reinterpret_cast<const char*>(bytes.data()), bytes.size(), offset,
        [](msgpack::type::object_type, std::size_t, void*) { return true; }, nullptr,
        limit_for(bytes.size()));
    if (offset != bytes.size()) throw PackError("bytes follow the end of the msgpack value");
    return handle;
  } catch (const msgpack::unpack_error& error) {
    throw PackError(std::string("not a valid msgpack value: ") + error.what());
  }
}

}  // namespace pack_detail

// One value as msgpack bytes, written into `arena`.
template <typename Value>
Bytes pack_value(BytesArena& arena, const Value& value) {
  auto& scratch = pack_detail::scratch();
  msgpack::pack(scratch, value);
  return arena.append(scratch.buffer.data(), scratch.buffer.size());
}

// The same, in memory of its own.
template <typename Value>
Bytes pack_value(const Value& value) {
  auto& scratch = pack_detail::scratch();
  msgpack::pack(scratch, value);
  return Bytes::copy(scratch.buffer);
}

// The arguments of one call as a msgpack array of sizeof...(Arguments) elements.
template <typename... Arguments>
Bytes pack_arguments(BytesArena& arena, const Arguments&... arguments) {
  auto& scratch = pack_detail::scratch();
  msgpack::packer<pack_detail::Scratch> packer(scratch);
  packer.pack_array(sizeof...(Arguments));
  (packer.pack(arguments), ...);
  return arena.append(scratch.buffer.data(), scratch.buffer.size());
}

// The blobs that these arguments hold at any depth, each once, in order.
template <typename... Arguments>
std::vector<Blob> blobs_of(const Arguments&... arguments) {
  if constexpr ((pack_detail::kHoldsNoBlobs<std::decay_t<Arguments>> && ...)) {
    return {};
  } else {
    pack_detail::CollectBlobs found;
    const pack_detail::WithBlobScope scope({&found, {}});
    pack_detail::Nowhere nowhere;
    (msgpack::pack(nowhere, arguments), ...);
    return std::move(found.blobs);
  }
}

// The value of type `Value` that `bytes` holds, with blobs among `blobs`. Throws PackError when it
// holds something else.
template <typename Value>
Value unpack_value(const Bytes& bytes, std::span<const Blob> blobs = {}) {
  const pack_detail::WithBlobScope scope({nullptr, blobs});
  const auto handle = pack_detail::parse(bytes);
  try {
    if constexpr (std::is_void_v<Value>) {
      return;
    } else {
      return handle.get().template as<Value>();
    }
  } catch (const msgpack::type_error&) {
    throw PackError("the msgpack value has another type than the one asked for");
  }
}

// The arguments of one call, with blobs among `blobs`. Throws PackError naming the first argument
// that does not fit.
template <typename... Arguments>
std::tuple<Arguments...> unpack_arguments(const Bytes& bytes, std::span<const Blob> blobs = {}) {
  const pack_detail::WithBlobScope scope({nullptr, blobs});
  const auto handle = pack_detail::parse(bytes);
  const msgpack::object& object = handle.get();
  if (object.type != msgpack::type::ARRAY) throw PackError("the payload is not an argument array");
  if (object.via.array.size != sizeof...(Arguments)) {
    throw PackError("takes " + std::to_string(sizeof...(Arguments)) + " arguments, got " +
                    std::to_string(object.via.array.size));
  }
  std::size_t index = 0;
  [[maybe_unused]]  // by a function of no arguments
  const auto next = [&]<typename Argument>(std::type_identity<Argument>) -> Argument {
    const msgpack::object& item = object.via.array.ptr[index++];
    try {
      return item.as<Argument>();
    } catch (const msgpack::type_error&) {
      throw PackError("argument " + std::to_string(index) + " has the wrong type");
    }
  };
  return std::tuple<Arguments...>{next(std::type_identity<Arguments>{})...};
}

}  // namespace muster

namespace msgpack {
MSGPACK_API_VERSION_NAMESPACE(MSGPACK_DEFAULT_API_NS) {
  namespace adaptor {

  // Bytes travel as msgpack bin.
  template <>
  struct pack<muster::Bytes> {
    template <typename Stream>
    msgpack::packer<Stream>& operator()(msgpack::packer<Stream>& packer,
                                        const muster::Bytes& value) const {
      packer.pack_bin(static_cast<std::uint32_t>(value.size()));
      packer.pack_bin_body(value.text().data(), static_cast<std::uint32_t>(value.size()));
      return packer;
    }
  };
  template <>
  struct convert<muster::Bytes> {
    const msgpack::object& operator()(const msgpack::object& object, muster::Bytes& value) const {
      if (object.type == msgpack::type::BIN) {
        value = muster::Bytes::copy(object.via.bin.ptr, object.via.bin.size);
      } else if (object.type == msgpack::type::STR) {
        value = muster::Bytes::copy(object.via.str.ptr, object.via.str.size);
      } else {
        throw msgpack::type_error();
      }
      return object;
    }
  };

  // Blobs travel as an array of two halves of the id and the size; all zero: none.
  template <>
  struct pack<muster::Blob> {
    template <typename Stream>
    msgpack::packer<Stream>& operator()(msgpack::packer<Stream>& packer,
                                        const muster::Blob& value) const {
      muster::pack_detail::BlobSink* sink = muster::pack_detail::blob_scope().sink;
      const muster::Blob named = sink != nullptr && value ? sink->take(value) : value;
      packer.pack_array(3);
      packer.pack_uint64(named ? named.file()->high : 0);
      packer.pack_uint64(named ? named.file()->low : 0);
      packer.pack_uint64(named.size());
      return packer;
    }
  };
  template <>
  struct convert<muster::Blob> {
    const msgpack::object& operator()(const msgpack::object& object, muster::Blob& value) const {
      if (object.type != msgpack::type::ARRAY || object.via.array.size != 3) {
        throw msgpack::type_error();
      }
      const auto high = object.via.array.ptr[0].as<std::uint64_t>();
      const auto low = object.via.array.ptr[1].as<std::uint64_t>();
      value = {};
      if (high == 0 && low == 0) return object;
      for (const muster::Blob& known : muster::pack_detail::blob_scope().known) {
        if (known && known.file()->high == high && known.file()->low == low) value = known;
      }
      if (!value) throw muster::PackError("names a blob that did not come along");
      return object;
    }
  };

  }  // namespace adaptor
}
}  // namespace msgpack
