// Key files: what `muster keygen` writes and brokers and workers read to know each other, by keys
// (CURVE) or, on a network that the user trusts, by a secret that both sides have (PLAIN).
// docs/broker.md, "Keys", says what they look like.
//
// Everything here blocks for file I/O. No error text holds a secret.
#pragma once

#include <string>
#include <vector>

namespace muster {

struct KeyPair {
  std::string name;        // of its owner: letters, digits and ._-@, at most 255
  std::string public_key;  // Z85, 40 characters
  std::string secret_key;  // the same
};

struct PublicKey {
  std::string key;  // Z85
  std::string name;
};

struct SharedSecret {
  std::string name;      // whose: the user that workers are to the broker
  std::string password;  // a worker's word
  std::string proof;     // the broker's
};

// Whether this is the Z85 text of a key.
bool is_key(const std::string& text);
bool is_key_name(const std::string& name);

// A new pair of random keys. Throws TransportError when this libzmq has no CURVE.
KeyPair make_key_pair(const std::string& name);

// Writes `path` (mode 0600) and `path`.pub. Throws TransportError: one of them exists and `force`
// is false, or cannot be written.
void write_key_files(const std::string& path, const KeyPair& pair, bool force);

// New random words. Writes and reads such a file (mode 0600); they throw as those for keys do.
SharedSecret make_shared_secret(const std::string& name);
void write_secret_file(const std::string& path, const SharedSecret& secret, bool force);
SharedSecret read_secret_file(const std::string& path);

// Throws TransportError: no such file, not a key file, or others may read it (files that systemd
// hands to a service, in $CREDENTIALS_DIRECTORY, are private whatever their mode says).
KeyPair read_key_file(const std::string& path);

// The public key that `text` is, or that stands in the file of that name (`muster keygen`'s .pub).
// Throws TransportError.
std::string read_public_key(const std::string& text);

// The line of a .pub file and of an authorized_workers file.
std::string public_line(const KeyPair& pair);

// The keys of an authorized_workers file, one "PUBLIC_KEY NAME" a line; empty lines and those that
// begin with # do not count. Throws TransportError with file and line: not such a line, a key that
// occurs twice, or a file that others may write.
std::vector<PublicKey> read_authorized_keys(const std::string& path);

}  // namespace muster
