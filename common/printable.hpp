// Text of others, fit for a terminal: what tasks, nodes and peers say is shown and obeyed by
// nobody. For messages that Muster composes; what tasks print is forwarded as it is. Pure; any
// thread.
#pragma once

#include <string>
#include <string_view>

namespace muster {

// Shows as escapes what would move the cursor, change colours, titles or the direction of writing:
// control characters but newline and tab (\x1b; those of C1 as \x9b, too), directional marks
// (\u202e), and bytes that are no UTF-8 (\xff). The rest stays as it is.
std::string printable(std::string_view text);

// The same on one line: newlines and tabs become spaces.
std::string printable_line(std::string_view text);

}  // namespace muster
