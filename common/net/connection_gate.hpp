// Stands between libzmq and the kernel in the broker's process, because libzmq aborts or buffers
// without end where it should refuse: its calls of accept4, recv and close come here first, by
// broker/door/libc_gate.cpp. Programs without that file have no gate. A connection ends, as if the
// peer had closed it, when the peer
//   - is not ZMTP 3 (libzmq would take it for an old version),
//   - names a routing id of its choice (libzmq aborts when it gives the same id itself),
//   - sends a message that does not end: libzmq keeps unfinished ones and counts none of them,
//   - comes when descriptors run out: libzmq aborts when accept fails with EMFILE.
// What CURVE encrypts cannot be read here: of such connections only the bytes since the last
// complete message are counted.
//
// Threads: libzmq's I/O thread calls accept4, recv and close; the functions below are for any.
#pragma once

#include <sys/socket.h>
#include <sys/types.h>

#include <cstddef>
#include <cstdint>

namespace muster::gate {

// Connections are refused that would get this descriptor or a higher one. Descriptors are given
// from 0 on, so that from here on they are left for everything else in the process.
void set_ceiling(int descriptor);

// A complete message of the encrypted connection with this descriptor was received.
void delivered(int descriptor);

// accept4 for listeners that are not ZeroMQ's.
int accept_other(int listener, int flags);

// How many connections were ended, and why.
struct Refused {
  std::uint64_t full = 0;      // no descriptor was left for them
  std::uint64_t foreign = 0;   // not ZMTP 3
  std::uint64_t claiming = 0;  // with a routing id of their own
  std::uint64_t endless = 0;   // a message without end
};
Refused refused();

// In place of the system's accept4, recv and close.
int accept(int listener, sockaddr* address, socklen_t* length, int flags);
ssize_t receive(int socket, void* buffer, std::size_t size, int flags);
int close(int descriptor);

}  // namespace muster::gate
