// The worker bundle on this machine (cmake/MusterBundle.cmake) and how it gets to a node.
//
// Threads: read-only once made; upload() is called by any node's thread with its own Remote.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>

#include "broker/ssh/remote.hpp"

namespace muster {

struct Bundle {
  std::filesystem::path file;
  std::string digest;  // short_digest() of the file's SHA-256
  std::string sha256;
  std::uint64_t bytes = 0;
  std::string version, arch, glibc, python;  // the manifest's
};

// `path`, or beside this program when it is empty. Throws NodeError (lasting, "upload").
Bundle find_bundle(const std::string& path);

// The node as its shell sees it.
struct NodeFacts {
  std::string cache;  // absolute path of ~/.cache/muster
  std::string arch, glibc;
  std::uint64_t free_bytes = 0;
};

// Tells what goes on, for STATUS.
using Progress = std::function<void(const std::string& step, const std::string& detail)>;

// Looks at the node and makes our folders there. Throws NodeError, lasting when a tool is missing
// or the disk is full.
NodeFacts probe_node(Remote& remote);

// Throws NodeError (lasting, "probe") unless the bundle's programs can run there.
void check_fits(const Bundle& bundle, const NodeFacts& facts);

// Uploads and unpacks it unless it is there. Throws NodeError.
void place_bundle(Remote& remote, const Bundle& bundle, const NodeFacts& facts,
                  const Progress& progress);

// Uploads a file to the cache's `folder` under a name of its own; returns its path there. `what`:
// for the progress, "the worker bundle". Throws NodeError.
std::string upload_part(Remote& remote, const NodeFacts& facts, const std::filesystem::path& file,
                        const std::string& folder, const std::string& what,
                        const Progress& progress);

// A command line that runs `script` with /bin/sh, whatever the user's shell is. A script is one
// line: csh takes no other.
std::string shell_command(std::string_view script);

// The SHA-256 of a file that is to be uploaded. Throws NodeError when it cannot be read.
std::string upload_digest(const std::filesystem::path& file);
// "4.1 of 9.8 MB".
std::string of_megabytes(std::uint64_t done, std::uint64_t all);
// Random lower-case hexadecimal digits, from the system.
std::string random_hex(std::size_t digits);
// Whether version `a` ("2.36") is older than `b`.
bool older_version(std::string_view a, std::string_view b);

}  // namespace muster
