// What another library needs; no plug-in itself.
extern "C" __attribute__((visibility("default"))) int shipped_helper() { return 40; }
