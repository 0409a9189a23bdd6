// The native function of mandelbrot.cpp.
#include <muster/task.hpp>

#include "examples/mandelbrot_tile.hpp"

MUSTER_PLUGIN(registry) {
  registry.add(
      "mandelbrot_tile", [](int width, int height, int left, int top, int columns, int rows) {
        return muster::Bytes::copy(mandelbrot::render({}, width, height, left, top, columns, rows));
      });
}
