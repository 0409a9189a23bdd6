// Runs a fuzz target over every file of the given folders, for compilers without libFuzzer.
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace {

int replay_folder(const std::filesystem::path& folder) {
  int file_count = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) {
    if (!entry.is_regular_file()) continue;
    std::ifstream file(entry.path(), std::ios::binary);
    const std::string bytes(std::istreambuf_iterator<char>(file), {});
    LLVMFuzzerTestOneInput(reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size());
    ++file_count;
  }
  return file_count;
}

}  // namespace

int main(int argc, char** argv) {
  int file_count = 0;
  try {
    for (int i = 1; i < argc; ++i) file_count += replay_folder(argv[i]);
  } catch (const std::filesystem::filesystem_error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 2;
  }
  std::printf("replayed %d inputs\n", file_count);
  return file_count > 0 ? 0 : 1;
}
