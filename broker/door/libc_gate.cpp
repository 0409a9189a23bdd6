// Puts common/net/connection_gate.hpp before libzmq: in a program that has this file, libzmq finds
// these three functions instead of the C library's, because the linker exports from a program what
// a shared library asks for. Only for the broker and its tests, never for a library.
#include <sys/socket.h>
#include <unistd.h>

#include "common/net/connection_gate.hpp"

#define MUSTER_INSTEAD_OF_LIBC extern "C" __attribute__((visibility("default"), used))

MUSTER_INSTEAD_OF_LIBC int accept4(int listener, sockaddr* address, socklen_t* length, int flags) {
  return muster::gate::accept(listener, address, length, flags);
}

MUSTER_INSTEAD_OF_LIBC ssize_t recv(int socket, void* buffer, size_t size, int flags) {
  return muster::gate::receive(socket, buffer, size, flags);
}

MUSTER_INSTEAD_OF_LIBC int close(int descriptor) { return muster::gate::close(descriptor); }
