// Where Muster's own programs stand.
#pragma once

#include <string>

namespace muster::detail {

// The path of `name`: in the folder `chosen`; if that is empty in the folder MUSTER_BIN_DIR, else
// beside this program, else beside this library or in ../bin from it, else on PATH. Throws Error
// unusable that says where it looked.
std::string find_program(const std::string& name, const std::string& chosen = {});

}  // namespace muster::detail
