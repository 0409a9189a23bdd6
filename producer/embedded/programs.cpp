#include "producer/embedded/programs.hpp"

#include <dlfcn.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <muster/outcome.hpp>
#include <muster/shared.hpp>
#include <string_view>
#include <vector>

namespace muster::detail {
namespace {

namespace fs = std::filesystem;

std::string variable(const char* name) {
  const char* text = std::getenv(name);
  return text == nullptr ? "" : text;
}

std::vector<fs::path> folders(const std::string& chosen) {
  if (!chosen.empty()) return {chosen};  // a folder that was named is the only one
  std::vector<fs::path> result;
  std::error_code ignored;
  fs::path own;  // of the library that this code is in
  Dl_info info{};
  if (dladdr(reinterpret_cast<void*>(&find_program), &info) != 0 && info.dli_fname != nullptr &&
      info.dli_fname[0] == '/') {
    own = fs::weakly_canonical(info.dli_fname, ignored).parent_path();
    // A wheel's programs are beside its module; the interpreter's folder may have other versions.
    result.push_back(own / "bin");
  }
  if (const fs::path self = fs::read_symlink("/proc/self/exe", ignored); !self.empty()) {
    result.push_back(self.parent_path());
  }
  if (!own.empty()) {
    result.push_back(own);
    // From lib, lib/<architecture> or lib/python3/dist-packages/muster up to where bin is.
    for (int level = 0; level < 4; ++level) {
      own = own.parent_path();
      result.push_back(own / "bin");
    }
  }
  const std::string path = variable("PATH");
  for (std::size_t begin = 0; begin < path.size();) {
    const std::size_t end = std::min(path.find(':', begin), path.size());
    if (end > begin) result.emplace_back(path.substr(begin, end - begin));
    begin = end + 1;
  }
  return result;
}

}  // namespace

std::string find_program(const std::string& name, const std::string& chosen) {
  std::string searched;
  for (const fs::path& folder : folders(chosen.empty() ? variable(kProgramsVariable) : chosen)) {
    const fs::path candidate = folder / name;
    std::error_code ignored;
    if (fs::is_regular_file(candidate, ignored) && access(candidate.c_str(), X_OK) == 0) {
      return candidate.string();
    }
    searched += (searched.empty() ? "" : ", ") + folder.string();
  }
  throw Error(
      ErrorCode::unusable, "unusable",
      "the program '" + name + "' is in none of: " + searched +
          "; install Muster, or set MUSTER_BIN_DIR or Options::programs to the folder that has it");
}

}  // namespace muster::detail
