#include "broker/door/endpoints.hpp"

#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <filesystem>
#include <string_view>

#include "common/net/key_file.hpp"

namespace muster {
namespace {

constexpr std::string_view kIpc = "ipc://";

bool is_local(const std::string& endpoint) { return endpoint.rfind("tcp://", 0) != 0; }

std::string path_of(const std::string& endpoint) { return endpoint.substr(kIpc.size()); }

// The pair of the key file, or one that is good for this start alone.
KeyPair server_keys(const EndpointOptions& options) {
  if (!options.trust_network.empty()) {
    if (!options.authorized_workers.empty()) {
      throw TransportError(
          "--trust-network and --authorized-workers: workers come by TCP either with a secret, in "
          "the clear, or with keys, encrypted; leave one of the two out");
    }
    return options.key_file.empty() ? make_key_pair("broker") : read_key_file(options.key_file);
  }
  for (const std::string& endpoint : options.listen) {
    if (!is_local(endpoint) && (options.key_file.empty() || options.authorized_workers.empty())) {
      throw TransportError(fmt::format(
          "--listen {}: TCP endpoints need --key FILE (make one with `muster keygen`) and "
          "--authorized-workers FILE (the public keys of the workers), or on a network that you "
          "trust --trust-network FILE; on one machine use ipc:///path/to/socket",
          endpoint));
    }
  }
  return options.key_file.empty() ? make_key_pair("broker") : read_key_file(options.key_file);
}

}  // namespace

std::string first_local(const std::vector<std::string>& listen) {
  for (const std::string& endpoint : listen) {
    if (is_local(endpoint)) return endpoint;
  }
  return "";
}

Endpoints::PrivateFolder::PrivateFolder(const std::string& endpoint) {
  if (endpoint.empty()) return;
  check_endpoint(endpoint);
  path_ = std::filesystem::path(path_of(endpoint)).parent_path();
}

Endpoints::PrivateFolder::~PrivateFolder() {
  if (!path_.empty()) rmdir(path_.c_str());  // only an empty one
}

Endpoints::Endpoints(const EndpointOptions& options, TransportContext& context,
                     Authenticator& authenticator)
    : options_(options),
      authenticator_(authenticator),
      folder_(options.private_folder ? first_local(options.listen) : ""),
      router_(context) {
  const KeyPair keys = server_keys(options_);
  const std::string local = first_local(options_.listen);
  if (local.empty()) {
    throw TransportError(
        "programs need a local endpoint besides: add --listen ipc:///path/to/socket");
  }
  server_key_ = keys.public_key;
  curve_ = {Security::curve, keys.secret_key};
  tcp_ = curve_;
  if (!options_.trust_network.empty()) {
    const SharedSecret secret = read_secret_file(options_.trust_network);
    authenticator_.allow(secret.name, secret.password, secret.proof);
    tcp_ = {Security::trusted};
  }
  if (!options_.authorized_workers.empty()) reload_authorized();
  for (const std::string& endpoint : options_.listen) {
    const std::string bound = listen(endpoint);
    if (!is_local(endpoint) && tcp_.security == Security::trusted) {
      authenticator_.self_test(context, bound, Security::trusted);
    }
  }
  tunnel_socket_ = bind_tunnel(path_of(local) + ".tunnel", {Security::plain});
  tunnel_curve_socket_ = bind_tunnel(path_of(local) + ".tunnel-curve", curve_);
  if (!tunnel_socket_.empty()) {
    authenticator_.self_test(context, std::string(kIpc) + tunnel_socket_, Security::plain);
  }
  // With the same socket as the TCP endpoints'.
  if (!tunnel_curve_socket_.empty() && !options_.key_file.empty()) {
    authenticator_.self_test(context, std::string(kIpc) + tunnel_curve_socket_, Security::curve,
                             server_key_);
  }
}

Endpoints::~Endpoints() {
  for (const std::string& path : {tunnel_socket_, tunnel_curve_socket_}) {
    if (!path.empty()) unlink(path.c_str());
  }
}

// Returns the endpoint with the port that was chosen.
std::string Endpoints::listen(const std::string& endpoint) {
  if (is_local(endpoint)) {
    check_endpoint(endpoint);
    locks_.emplace_back(endpoint);
    router_.bind(endpoint);
    spdlog::info("listening on {}", endpoint);
    return endpoint;
  }
  std::string bound = router_.bind(endpoint, tcp_);
  if (tcp_.security == Security::trusted) {
    spdlog::warn("listening on {} for workers with the secret of '{}': nothing there is encrypted",
                 bound, options_.trust_network);
  } else {
    spdlog::info("listening on {} for workers; the broker's public key is {}", bound, server_key_);
  }
  return bound;
}

// The lock of the endpoint beside it keeps other brokers away from this one, too.
std::string Endpoints::bind_tunnel(const std::string& path, const BindOptions& security) {
  const std::string endpoint = std::string(kIpc) + path;
  try {
    check_endpoint(endpoint, security.security);
  } catch (const TransportError&) {
    spdlog::info("'{}' is too long for a Unix socket: no tunnels can end there", path);
    return "";
  }
  router_.bind(endpoint, security);
  return path;
}

std::vector<std::string> Endpoints::reload_authorized() {
  if (options_.authorized_workers.empty()) return {};
  std::vector<Authenticator::Key> keys;
  for (PublicKey& key : read_authorized_keys(options_.authorized_workers)) {
    keys.push_back({std::move(key.name), std::move(key.key)});
  }
  spdlog::info("{} workers are authorized by '{}'", keys.size(), options_.authorized_workers);
  return authenticator_.allow_keys(keys);
}

}  // namespace muster
