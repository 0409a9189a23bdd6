#include "broker/books/reservations.hpp"

#include <utility>

namespace muster {

void Reservations::set_reserved(WorkerIndex index, bool reserved) {
  workers_.at(index).reserved = reserved;
  workers_.update_level(index);
}

void Reservations::reserve_last_chance(WorkerIndex index) {
  last_chance_ = index;
  set_reserved(index, true);
}

void Reservations::release_last_chance() {
  if (last_chance_ != kNoWorker) set_reserved(std::exchange(last_chance_, kNoWorker), false);
}

void Reservations::drain(WorkerIndex index, const Demand& demand) {
  drained_ = {index, &demand, kNever};
  set_reserved(index, true);
}

void Reservations::keep_drained(Time until) {
  if (drained_.until == kNever) drained_.until = until;
}

void Reservations::release_drained() {
  if (drained_.worker != kNoWorker) set_reserved(std::exchange(drained_, {}).worker, false);
}

void Reservations::forget(WorkerIndex index) {
  if (last_chance_ == index) last_chance_ = kNoWorker;
  if (drained_.worker == index) release_drained();
}

void Reservations::forget(const Demand* demand) {
  if (demand != nullptr && drained_.demand == demand) release_drained();
}

}  // namespace muster
