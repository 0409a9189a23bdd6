// What the leak sanitizer need not report. Linked into every test program; others ignore it.

// NOLINTBEGIN(bugprone-reserved-identifier,readability-identifier-naming): the sanitizer's name
extern "C" const char* __lsan_default_suppressions();

extern "C" const char* __lsan_default_suppressions() {
  // What a thread keeps of its last dlopen() that failed: the C library frees it when the thread
  // ends, which may be at the same moment as the program.
  return "leak:_dlerror_run\n";
}
// NOLINTEND(bugprone-reserved-identifier,readability-identifier-naming)
