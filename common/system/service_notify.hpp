// What a program tells the service manager that started it: systemd's notification protocol
// (sd_notify(3): datagrams of NAME=VALUE lines to the socket that NOTIFY_SOCKET names).
//
// Owner: the program's loop. Threads: the loop's. Without a manager everything here does nothing.
#pragma once

#include <string>
#include <string_view>

#include "common/time.hpp"

namespace muster {

struct ServiceManager {
  std::string address;  // a path, or "@name" in the abstract namespace; empty: no manager
  Duration watchdog{};  // the manager ends a program that is silent for this long; 0: never
};

// Takes NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID out of the environment, so that no task
// inherits them and speaks for the service. Call before the first thread and the first child.
ServiceManager take_service_manager();

enum class ServiceState { starting, ready, stopping };

class ServiceNotifier {
 public:
  explicit ServiceNotifier(ServiceManager manager = {});

  // The loop came round: tells the manager what changed, and that the program is alive when half
  // of the watchdog's time has passed. Only the loop calls this, never a timer of its own: a loop
  // that hangs is to be ended. `status` is one line for people. Never blocks; what the manager's
  // full socket refuses is said again a second later.
  void turn(Time now, ServiceState state, std::string_view status);

  // When the loop has to come round at the latest; kNever: whenever it likes.
  Time next_deadline() const { return next_deadline_; }

 private:
  bool send(const std::string& lines) const;

  ServiceManager manager_;
  ServiceState state_ = ServiceState::starting;  // as the manager knows it
  std::string status_;                           // as the manager knows it
  Time alive_at_ = kNever;                       // when the next sign of life is due
  Time retry_at_ = Time::min();                  // nothing is sent before
  Time next_deadline_ = kNever;
};

}  // namespace muster
