// Writes the seeds of the codec fuzzer: make_codec_corpus FOLDER. Run it after a change of the
// protocol and commit what it writes: one message of every kind, plain and packed, and frames of
// hostile peers.
#include <cstdio>
#include <fstream>
#include <string>

#include "tests/support/messages.hpp"

namespace muster {
namespace {

std::string joined(const Frames& frames) {
  std::string text;
  for (const Bytes& frame : frames) {
    text += static_cast<char>(frame.size() >> 8);
    text += static_cast<char>(frame.size());
    text += frame.text();
  }
  return text;
}

void write(const std::string& path, const std::string& text) { std::ofstream(path) << text; }

void write_all(const std::string& folder) {
  for (const Message& message : testing::sample_messages()) {
    const std::string path = folder + "/" + name_of(message);
    write(path, joined(encode(message, Packing::never)));
    const Frames packed = encode(message, Packing::when_smaller);
    if (packed[0].text()[0] != 0) write(path + ".packed", joined(packed));
  }
  const message::Notice notice{JobId{1}, std::string(2000, 'n')};
  write(folder + "/NOTICE.packed", joined(encode(notice, Packing::when_smaller)));

  using namespace std::string_literals;
  const auto hostile = [&](const char* name, const std::string& frame) {
    write(folder + "/hostile." + name, joined({Bytes::copy(frame)}));
  };
  hostile("empty_frame", "");
  hostile("list_of_4_gi", "\0\x94\x09\x01\x00\xdd\xff\xff\xff\xff"s);
  hostile("bytes_of_4_gi", "\0\x91\xc6\xff\xff\xff\xff"s);
  hostile("deep", "\0"s + std::string(200, '\x91'));
  hostile("lz4_bomb", "\x01\x00\x80\x00\x00\x1f\x00\x01\x00\xff\xff\xff\xff"s);
  hostile("unknown_type", "\0\x91\x1b"s);
  hostile("missing_payload", "\0\x94\x09\x01\x00\x91\xc0"s);
}

}  // namespace
}  // namespace muster

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: make_codec_corpus FOLDER\n");
    return 2;
  }
  muster::write_all(argv[1]);
  return 0;
}
