// What ~/.ssh/config and its like say that libssh does not obey: it skips in silence what it does
// not know, and some of that decides who is trusted or how to log in.
// Threads: any.
#pragma once

#include <string>
#include <vector>

namespace muster {

struct SshConfigFindings {
  // "FILE:LINE: KEYWORD ...: what is ignored, and what to do", for lines that apply to the host.
  std::vector<std::string> warnings;
  bool identities_only = false;  // IdentitiesOnly yes: the agent's other keys are not offered
  std::vector<std::string> identity_files;  // all of them, in order, with their tokens
};

// Reads `files` (and what they include) as ssh(1) does for `ssh user@address`. `user` may be empty.
// Files that cannot be read say nothing.
SshConfigFindings examine_ssh_config(const std::vector<std::string>& files,
                                     const std::string& address, const std::string& user);

// The folder of keys, config and known_hosts: .ssh in $HOME, else in the user's home folder.
std::string ssh_folder();
// The name of the user who runs this; empty: it has none.
std::string login_name();
// "a,b" at ',': at least one part.
std::vector<std::string> split(const std::string& text, char separator);

// True for the first call with this text in this process.
bool first_time(const std::string& text);

}  // namespace muster
