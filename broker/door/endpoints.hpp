// What the broker listens on: local endpoints for programs and workers of this machine, TCP
// endpoints for workers with a key (or, on a trusted network, with a secret), and beside the first
// local one the Unix sockets where tunnels end.
//
// Owner: the broker's main. Threads: the loop's.
#pragma once

#include <string>
#include <vector>

#include "broker/door/authenticator.hpp"
#include "broker/door/endpoint_lock.hpp"
#include "common/net/transport.hpp"

namespace muster {

struct EndpointOptions {
  std::vector<std::string> listen;      // ipc:// (at least one) and tcp://
  bool private_folder = false;          // remove the folder of the first one at the end
  std::string key_file = {};            // the broker's; needed for tcp://
  std::string authorized_workers = {};  // file; needed for tcp://
  std::string trust_network = {};       // file of a shared secret: tcp:// in the clear, instead
};

// The first of them that is local; empty: none.
std::string first_local(const std::vector<std::string>& listen);

class Endpoints {
 public:
  // Binds every endpoint and sees that wrong logins are refused there. Throws TransportError. The
  // authenticator belongs to `context`; both outlive this.
  Endpoints(const EndpointOptions& options, TransportContext& context,
            Authenticator& authenticator);
  ~Endpoints();
  Endpoints(const Endpoints&) = delete;
  Endpoints& operator=(const Endpoints&) = delete;

  Router& router() { return router_; }
  // Paths of the Unix sockets where tunnels end, with PLAIN and with CURVE. Empty when the path of
  // the first local endpoint leaves no room for theirs.
  const std::string& tunnel_socket() const { return tunnel_socket_; }
  const std::string& tunnel_curve_socket() const { return tunnel_curve_socket_; }
  // The broker's public key: of its key file, else a new one at every start.
  const std::string& server_key() const { return server_key_; }

  // Reads the file of authorized workers again. Returns the users of whom a key is gone. Throws
  // TransportError, and everything stays as it was.
  std::vector<std::string> reload_authorized();

 private:
  // The folder that a parent made for this broker alone; the parent may be killed before it can
  // remove it.
  class PrivateFolder {
   public:
    explicit PrivateFolder(const std::string& endpoint);
    ~PrivateFolder();
    PrivateFolder(const PrivateFolder&) = delete;
    PrivateFolder& operator=(const PrivateFolder&) = delete;

   private:
    std::string path_;
  };

  std::string listen(const std::string& endpoint);
  std::string bind_tunnel(const std::string& path, const BindOptions& security);

  const EndpointOptions options_;
  Authenticator& authenticator_;
  const PrivateFolder folder_;  // goes after the sockets in it
  BindOptions curve_;
  BindOptions tcp_;
  std::string server_key_;
  Router router_;
  std::vector<EndpointLock> locks_;
  std::string tunnel_socket_;
  std::string tunnel_curve_socket_;
};

}  // namespace muster
