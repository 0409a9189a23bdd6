// Decides which peer may connect where: the ZAP handler (ZeroMQ RFC 27) of the process's sockets. A
// connection to a PLAIN or CURVE endpoint reaches no decoder before its peer is known.
//
// Owner: the broker's main, before and longer than any Router of the same context. Threads: any;
// the handler answers in a thread of its own.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "common/net/transport.hpp"

namespace muster {

class Authenticator {
 public:
  // Binds the handler. Throws TransportError.
  explicit Authenticator(TransportContext& context);
  ~Authenticator();
  Authenticator(const Authenticator&) = delete;
  Authenticator& operator=(const Authenticator&) = delete;

  // PLAIN: `user` may connect with `password` from now on; an earlier password of it is void.
  // `proof` is what WELCOME tells that user. `public_key` (Z85), if any: CURVE with that key is
  // good, too. Throws TransportError unless user and password have 1 to 255 bytes and the key is
  // one.
  void allow(const std::string& user, const std::string& password, const std::string& proof,
             const std::string& public_key = {});
  // Connections that are open stay; the scheduler decides about those.
  void revoke(const std::string& user);
  std::string proof(const std::string& user) const;  // empty: unknown user
  // Whether the user may still connect: it may have been revoked since it did.
  bool admits(const std::string& user) const;

  // CURVE: the public keys (Z85) that may connect; `user` is the name in the authorized file.
  struct Key {
    std::string user;
    std::string public_key;
  };
  // Instead of those named so before. Returns the users of whom a key is no longer good. Throws
  // TransportError, and changes nothing, when a key is none.
  std::vector<std::string> allow_keys(const std::vector<Key>& keys);

  // Sees that a wrong login is refused at `endpoint`, where a Router of `context` listens: connects
  // with one. Throws TransportError when it was let in, or when nobody answers. `server_key`: for
  // CURVE, the public one. Blocks for a few milliseconds. Logs and counts no refusal meanwhile.
  void self_test(TransportContext& context, const std::string& endpoint, Security security,
                 const std::string& server_key = {});

  // Connections refused so far.
  std::uint64_t refused() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace muster
