// What both kinds of sockets share. Private to transport*.cpp.
#pragma once

#include <cstddef>
#include <string>
#include <zmq.hpp>

#include "common/net/transport.hpp"

namespace muster::transport {

void set_common_options(zmq::socket_t& socket);
// For connections that leave the machine, or come from somebody else on it.
void set_remote_options(zmq::socket_t& socket, const std::string& endpoint);

Bytes to_bytes(zmq::message_t&& frame);
// Sends every frame; the first may be refused, the others of one message then never are.
SendResult send_all(zmq::socket_t& socket, Frames&& frames);
// Appends the remaining frames of the message that has begun.
void receive_rest(zmq::socket_t& socket, zmq::message_t&& first, Frames& frames);

// Throws TransportError unless this libzmq has CURVE.
void check_curve();

}  // namespace muster::transport
