#include "broker/nodes/environment.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <nlohmann/json.hpp>
#include <set>

#include "broker/hosts/digest.hpp"
#include "broker/ssh/remote_text.hpp"
#include "common/system/pointers.hpp"

namespace muster {
namespace {

namespace fs = std::filesystem;

constexpr std::chrono::seconds kPatience{120};
constexpr std::size_t kMostFiles = 100'000;

[[noreturn]] void fail(const std::string& text) {
  throw NodeError(NodeError::Kind::lasting, "python", text);
}

// Not shipped, and not part of the digest: they change without any change.
bool is_left_out(const fs::path& path) {
  const std::string name = path.filename().string();
  return name == "__pycache__" || name == ".git" || path.extension() == ".pyc";
}

fs::path without_slash(const std::string& text) {
  const fs::path path(text);
  return path.has_filename() ? path : path.parent_path();
}

void list_files(const fs::path& path, std::set<fs::path>& files) {
  std::error_code error;
  if (!fs::is_directory(path, error)) {
    files.insert(path);
    return;
  }
  fs::recursive_directory_iterator entries(path, error), end;
  if (error) fail(fmt::format("includes: cannot read {}: {}", path.string(), error.message()));
  for (; entries != end; entries.increment(error)) {
    if (error) fail(fmt::format("includes: cannot read {}: {}", path.string(), error.message()));
    if (is_left_out(entries->path())) {
      entries.disable_recursion_pending();
    } else if (entries->is_regular_file(error)) {
      files.insert(entries->path());
    }
    if (files.size() > kMostFiles) {
      fail(fmt::format("includes: {} has more than {} files: name only what tasks import",
                       path.string(), kMostFiles));
    }
  }
}

std::string digest_includes(const Host& host) {
  std::string text = "includes 1\n";
  for (const std::string& include : host.includes) {
    const fs::path path = without_slash(include);
    if (!fs::exists(path)) {
      fail(fmt::format("includes: there is no {} on this machine", path.string()));
    }
    std::set<fs::path> files;
    list_files(path, files);
    for (const fs::path& file : files) {
      text += fmt::format("{} {}\n", file.lexically_relative(path.parent_path()).string(),
                          upload_digest(file));
    }
  }
  return short_digest(sha256_of(text));
}

void describe_wheels(const Host& host, Image& image) {
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(host.wheels, error)) {
    const std::string extension = entry.path().extension().string();
    if (extension == ".whl" || extension == ".gz" || extension == ".zip") {
      image.wheel_files.push_back(entry.path());
    }
  }
  if (error) fail(fmt::format("wheels: cannot read {}: {}", host.wheels, error.message()));
  if (image.wheel_files.empty()) {
    fail(fmt::format("wheels: there is no wheel in {}: fill it with `pip download -d {} PACKAGE`",
                     host.wheels, host.wheels));
  }
  std::sort(image.wheel_files.begin(), image.wheel_files.end());
  std::string text = "wheels 1\n";
  for (const fs::path& file : image.wheel_files) {
    text += fmt::format("{} {}\n", file.filename().string(), upload_digest(file));
  }
  image.wheels = short_digest(sha256_of(text));
}

// A file that is gone with it.
class TemporaryFile {
 public:
  TemporaryFile() : path_(fs::temp_directory_path() / "muster-include-XXXXXX") {
    const int descriptor = ::mkstemp(path_.data());
    if (descriptor < 0) fail("cannot make a file in the temporary folder: is its disk full?");
    ::close(descriptor);
  }
  ~TemporaryFile() {
    std::error_code ignored;
    fs::remove(path_, ignored);
  }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

void pack(const Host& host, const std::string& archive) {
  std::vector<std::string> words = {"tar",
                                    "--sort=name",
                                    "--mtime=@0",
                                    "--owner=0",
                                    "--group=0",
                                    "--numeric-owner",
                                    "--format=gnu",
                                    "--exclude=__pycache__",
                                    "--exclude=.git",
                                    "--exclude=*.pyc",
                                    "--dereference",
                                    "-czf",
                                    archive};
  for (const std::string& include : host.includes) {
    const fs::path path = fs::absolute(without_slash(include));
    words.insert(words.end(), {"-C", path.parent_path().string(), "./" + path.filename().string()});
  }
  pid_t pid = -1;
  int status = ::posix_spawnp(&pid, "tar", nullptr, nullptr, pointers_to(words).data(), environ);
  if (status != 0) fail(fmt::format("includes: cannot run tar: {}", std::strerror(status)));
  while (::waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
    fail("includes: tar could not pack them; its message is above");
  }
}

// Moves what was unpacked from `archive` to `place`, in one step.
void unpack(Remote& remote, const std::string& archive, const std::string& place) {
  const CommandOutput done = remote.run(
      shell_command(fmt::format("umask 077; a={}; d=\"$a.d\"; p={}; "
                                "trap 'rm -rf \"$a\" \"$d\"' EXIT; mkdir \"$d\" && "
                                "tar xzf \"$a\" -C \"$d\" && "
                                "{{ mv -T \"$d\" \"$p\" 2>/dev/null || test -d \"$p\"; }}",
                                shell_word(archive), shell_word(place))),
      "", kPatience);
  if (done.status != 0) {
    fail("includes: cannot unpack them on the node (is its disk full?): " + done.error_output);
  }
}

void place_wheels(Remote& remote, const Image& image, const NodeFacts& facts,
                  const Progress& progress) {
  const std::string place = facts.cache + "/wheels/" + image.wheels;
  const std::string complete = shell_word(place + "/complete");
  if (remote.run(shell_command("test -e " + complete), "", kPatience).status == 0) return;
  for (const fs::path& file : image.wheel_files) {
    const std::string name = file.filename().string();
    const std::string part = upload_part(remote, facts, file, "wheels", name, progress);
    const CommandOutput moved = remote.run(
        shell_command(fmt::format("umask 077; mkdir -p {0} && mv {1} {0}/{2}", shell_word(place),
                                  shell_word(part), shell_word(name))),
        "", kPatience);
    if (moved.status != 0) {
      fail("wheels: cannot place them on the node (is its disk full?): " + moved.error_output);
    }
  }
  remote.run(shell_command(": > " + complete), "", kPatience);
}

// For the worker's start (worker/attach/attach_spawn.cpp), and until somebody may have mended it.
void mark_lack(Remote& remote, const Image& image, const NodeFacts& facts,
               const std::string& reason) {
  const std::string folder = shell_word(facts.cache + "/environments/" + image.environment);
  const CommandOutput done = remote.run(
      shell_command(fmt::format("umask 077; mkdir -p {0} && printf 'none\\n\\n%s\\n' {1} "
                                ">{0}/ready.part && mv {0}/ready.part {0}/ready",
                                folder, shell_word(reason))),
      "", kPatience);
  if (done.status != 0) {
    fail("cannot write in the node's cache folder (is its disk full?): " + done.error_output);
  }
}

}  // namespace

Image describe_image(const Host& host, const Bundle& bundle) {
  Image image;
  if (!host.includes.empty()) image.include = digest_includes(host);
  if (host.python.empty() && !host.pip.empty()) {
    fail("pip needs `python`: say which, like python = \"3.11\"");
  }
  if (host.python == kNoPython) return image;
  if (!host.worker.empty()) return image;  // an installed worker uses the interpreter as it is
  image.may_lack_python = host.python.empty();
  if (bundle.python.empty()) {
    if (image.may_lack_python) return image;
    fail(
        "this Muster was built without Python: build it with -D MUSTER_PYTHON=ON, or leave out "
        "`python`");
  }
  if (!host.wheels.empty()) describe_wheels(host, image);
  std::vector<std::string> requirements = host.pip;
  std::sort(requirements.begin(), requirements.end());
  std::string text = fmt::format("environment 1\n{}\n{} {}\n{}\n", bundle.version, bundle.python,
                                 host.python, image.wheels);
  for (const std::string& requirement : requirements) text += requirement + "\n";
  image.environment = short_digest(sha256_of(text));
  return image;
}

void place_includes(Remote& remote, const Host& host, const Image& image, const NodeFacts& facts,
                    const Progress& progress) {
  if (image.include.empty()) return;
  const std::string place = facts.cache + "/includes/" + image.include;
  const CommandOutput there =
      remote.run(shell_command("test -d " + shell_word(place)), "", kPatience);
  if (there.status == 0) return;
  const TemporaryFile archive;
  pack(host, archive.path());
  unpack(remote, upload_part(remote, facts, archive.path(), "includes", "the includes", progress),
         place);
}

void prepare_environment(Remote& remote, const Host& host, const Bundle& bundle, const Image& image,
                         const NodeFacts& facts, const Progress& progress) {
  if (image.environment.empty()) return;
  progress("python", "looking at Python on the node");
  if (!image.wheels.empty()) place_wheels(remote, image, facts, progress);
  const std::string folder = facts.cache + "/bundles/" + bundle.digest;
  const nlohmann::json wanted = {
      {"cache", facts.cache},
      {"digest", image.environment},
      {"python", host.python.empty() ? bundle.python : host.python},
      {"optional", image.may_lack_python},
      {"pip", host.pip},
      {"bundle", folder},
      {"bundle_python", bundle.python},
      {"version", bundle.version},
      {"wheels", image.wheels.empty() ? "" : facts.cache + "/wheels/" + image.wheels}};
  // Any interpreter may run the script; it looks for the right one.
  const std::string command = shell_command(fmt::format(
      "for p in {} python{} python3 python; do if command -v \"$p\" >/dev/null 2>&1; then "
      "exec \"$p\" -I {}; fi; done; "
      "echo \"error there is no Python on the node: install it (apt install python3)\"; exit 1",
      shell_word(host.python.empty() ? bundle.python : host.python), bundle.python,
      shell_word(folder + "/share/environment.py")));
  std::string problem, complaint;
  const int status =
      remote.serve(command, wanted.dump() + "\n", [&](std::string_view line, bool is_error) {
        if (is_error) {
          complaint = line;
        } else if (line.starts_with("progress ")) {
          progress("python", std::string(line.substr(9)));
        } else if (line.starts_with("error ")) {
          problem = line.substr(6);
        }
      });
  if (status == 0) return;
  if (problem.empty()) problem = "the environment could not be made: " + complaint;
  if (!image.may_lack_python) fail(problem);
  mark_lack(remote, image, facts, problem);
}

}  // namespace muster
