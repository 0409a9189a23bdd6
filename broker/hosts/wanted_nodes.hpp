// Which nodes a broker was told to bring up, in a file: the next broker brings them up again when
// this one crashes.
//
// Owner: NodesControl. Threads: the loop's. Blocking: on a small file in memory (beside the
// socket).
#pragma once

#include <string>
#include <vector>

namespace muster {

class WantedNodes {
 public:
  struct Entry {
    std::string origin;              // of the hosts file, for error texts and relative paths
    std::string hosts;               // its text
    std::vector<std::string> names;  // those of its hosts that are still wanted
  };

  // Reads what stands in `path`; a file that is missing or damaged has no entries.
  explicit WantedNodes(std::string path);

  const std::vector<Entry>& entries() const { return entries_; }
  // Each of these writes the file anew; it is removed when no node is wanted. A failure is logged.
  void up(Entry entry);
  void down(const std::vector<std::string>& names);  // none: all
  void clear() { down({}); }

 private:
  void drop(const std::vector<std::string>& names);
  void write() const;

  const std::string path_;
  std::vector<Entry> entries_;
};

}  // namespace muster
