// Remote over libssh, in this process: one connection, one thread, no child process (unless a jump
// host is named).
#pragma once

#include <memory>
#include <string>

#include "broker/hosts/host.hpp"
#include "broker/ssh/pump.hpp"
#include "broker/ssh/remote.hpp"
#include "broker/ssh/ssh_session.hpp"
#include "broker/ssh/waker.hpp"

namespace muster {

class LibsshRemote : public Remote {
 public:
  LibsshRemote(const Host& host, TunnelCounters& counters);

  void open(const std::function<void(const std::string& step)>& step) override;
  std::uint16_t forward(std::uint16_t port, const std::string& socket_path) override;
  CommandOutput run(const std::string& command, std::string_view input,
                    std::chrono::seconds patience) override;
  void upload(const std::filesystem::path& file, const std::string& path,
              const std::function<void(std::uint64_t bytes)>& progress) override;
  int serve(const std::string& command, std::string_view input, const LineSink& sink) override;
  void finish(std::string_view last_words) override { waker_.finish(last_words); }
  void cut() override { waker_.cut(); }

 private:
  // 0: refused.
  std::uint16_t ask_to_listen(std::uint16_t port);
  [[noreturn]] void fail_forward(std::uint16_t port);

  const Host host_;
  TunnelCounters& counters_;
  Waker waker_;
  std::unique_ptr<SshSession> session_;
  std::unique_ptr<Pump> pump_;
};

}  // namespace muster
