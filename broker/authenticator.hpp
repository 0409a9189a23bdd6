// Who may connect where: the ZAP handler (ZeroMQ RFC 27) of the process's sockets. A connection to
// a PLAIN or CURVE endpoint reaches no decoder before its peer is known.
//
// Owner: the broker's main, before and longer than any Router of the same context. Threads: any;
// the handler answers in a thread of its own.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "common/transport.hpp"

namespace muster {

class Authenticator {
 public:
  // Binds the handler. Throws TransportError.
  explicit Authenticator(TransportContext& context);
  ~Authenticator();
  Authenticator(const Authenticator&) = delete;
  Authenticator& operator=(const Authenticator&) = delete;

  // PLAIN: `user` may connect with `password` from now on; an earlier password of it is void.
  // `proof` is what WELCOME tells that user.
  void allow(const std::string& user, const std::string& password, const std::string& proof);
  // Connections that are open stay; the scheduler decides about those.
  void revoke(const std::string& user);
  std::string proof(const std::string& user) const;  // empty: unknown user

  // CURVE: the public keys (Z85) that may connect; `user` is the name in the authorized file.
  struct Key {
    std::string user;
    std::string public_key;
  };
  void allow_keys(std::vector<Key> keys);

  // Connections refused so far.
  std::uint64_t refused() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace muster
