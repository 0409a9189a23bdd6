// The function of shared_table.cpp.
#include <cstdint>
#include <muster/task.hpp>
#include <stdexcept>

MUSTER_PLUGIN(registry) {
  registry.add("energy", [](const muster::Blob& table, std::uint64_t begin, std::uint64_t end) {
    const auto values = table.as<double>();  // the pages that all tasks of this node share
    if (begin > end || end > values.size()) throw std::out_of_range("no such part of the table");
    double sum = 0;
    for (std::uint64_t i = begin; i < end; ++i) sum += values[i] * values[i];
    return sum;
  });
}
