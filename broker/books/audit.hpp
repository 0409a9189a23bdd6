// Whether the books add up: for tests and simulation. Pure.
#pragma once

namespace muster {

class Books;

// Aborts if any of the tables contradict each other. O(everything).
void audit(const Books& books);

}  // namespace muster
