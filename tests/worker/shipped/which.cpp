// Says which of the libraries it is in.
#include <muster/task.hpp>
#include <string>

#ifdef SHIPPED_NEEDY
extern "C" int shipped_helper();
#endif
#ifdef SHIPPED_UNRESOLVED
extern "C" int shipped_nowhere_defined();
#endif

namespace {

int calls = 0;  // each library has its own

}  // namespace

MUSTER_PLUGIN(registry) {
#ifdef SHIPPED_FIRST
  registry.add("which", [] { return "first " + std::to_string(++calls); });
  registry.add("square", [](int number) { return number + 1000; });  // not the worker's
#endif
#ifdef SHIPPED_SECOND
  registry.add("which", [] { return "second " + std::to_string(++calls); });
#endif
#ifdef SHIPPED_NEEDY
  registry.add("which", [] { return "needs " + std::to_string(shipped_helper() + ++calls); });
#endif
#ifdef SHIPPED_UNRESOLVED
  registry.add("which", [] { return shipped_nowhere_defined() + ++calls; });
#endif
}
