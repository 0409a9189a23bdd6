// One tile of the picture; what the plug-in and the verification share.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <string>

namespace mandelbrot {

struct View {
  double center_real = -0.743643887037151;
  double center_imaginary = 0.131825904205330;
  double width = 0.000051299;  // of the picture, in the complex plane
  int iterations = 6000;
};

using Colour = std::array<double, 3>;  // 0 to 255

// A closed gradient: night blue, blue, white, amber, wine and back.
inline Colour gradient(double position) {
  struct Stop {
    double at;
    Colour colour;
  };
  constexpr std::array<Stop, 6> kStops = {{{0.0, {6, 10, 38}},
                                           {0.2, {20, 72, 140}},
                                           {0.42, {226, 240, 236}},
                                           {0.62, {244, 170, 52}},
                                           {0.84, {96, 22, 38}},
                                           {1.0, {6, 10, 38}}}};
  position -= std::floor(position);
  std::size_t i = 1;
  while (i + 1 < kStops.size() && position > kStops[i].at) ++i;
  const Stop& left = kStops[i - 1];
  const Stop& right = kStops[i];
  const double part = (position - left.at) / (right.at - left.at);
  const double eased = part * part * (3 - 2 * part);
  Colour mixed{};
  for (std::size_t c = 0; c < 3; ++c) {
    mixed[c] = left.colour[c] + (right.colour[c] - left.colour[c]) * eased;
  }
  return mixed;
}

// The colour of one point: by its smooth iteration count, golden within about a pixel of the set,
// whose finest threads would be noise otherwise, and nearly black inside. The derivative dx, dy by
// the point gives the distance to the set: |z| log |z| / |dz|, up to a factor.
inline Colour colour_at(double real, double imaginary, int iterations, double pixel) {
  constexpr Colour kInside = {4, 6, 20};
  constexpr Colour kThread = {255, 226, 160};
  constexpr double kEscape = 1 << 16;  // squared; a large radius makes the count smooth
  double x = 0;
  double y = 0;
  double x2 = 0;
  double y2 = 0;
  double dx = 0;
  double dy = 0;
  int n = 0;
  for (; n < iterations && x2 + y2 < kEscape; ++n) {
    const double next_dx = 2 * (x * dx - y * dy) + 1;
    dy = 2 * (x * dy + y * dx);
    dx = next_dx;
    y = 2 * x * y + imaginary;
    x = x2 - y2 + real;
    x2 = x * x;
    y2 = y * y;
  }
  if (n == iterations) return kInside;
  const double log_radius = 0.5 * std::log(x2 + y2);
  const double smooth = n + 1 - std::log2(log_radius);
  const double pixels_away = 2 * log_radius * std::sqrt((x2 + y2) / (dx * dx + dy * dy)) / pixel;
  Colour colour = gradient(0.75 * std::log(std::max(1.0, smooth)) + 0.43);
  const double gold = std::exp(-1.3 * pixels_away);
  for (std::size_t c = 0; c < 3; ++c) colour[c] += (kThread[c] - colour[c]) * gold;
  return colour;
}

// Pixels [left, left + columns) x [top, top + rows) of a picture of `width` x `height` pixels, as
// rows of red, green, blue; each pixel is the mean of 2 x 2 points.
inline std::string render(const View& view, int width, int height, int left, int top, int columns,
                          int rows) {
  std::string pixels;
  pixels.reserve(std::size_t{3} * static_cast<unsigned>(columns) * static_cast<unsigned>(rows));
  const double step = view.width / (2 * width);
  for (int row = top; row < top + rows; ++row) {
    for (int column = left; column < left + columns; ++column) {
      Colour sum{};
      for (int point = 0; point < 4; ++point) {
        const int right = point % 2;
        const int down = point / 2;
        const double real = view.center_real + (2 * column + right - width + 0.5) * step;
        const double imaginary = view.center_imaginary - (2 * row + down - height + 0.5) * step;
        const Colour colour = colour_at(real, imaginary, view.iterations, 2 * step);
        for (std::size_t c = 0; c < 3; ++c) sum[c] += colour[c];
      }
      for (const double channel : sum) pixels += static_cast<char>(std::lround(channel / 4));
    }
  }
  return pixels;
}

}  // namespace mandelbrot
