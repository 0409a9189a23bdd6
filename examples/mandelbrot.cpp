// Renders a zoom into the Mandelbrot set over the pool, tile by tile, and writes it as PNG.
//
//   mandelbrot --output zoom.png [--width 1600] [--height 1000] [--slots N] [--verify]
//
// --verify renders the picture again here, in this one thread, and compares byte by byte.
#include <png.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <muster/producer.hpp>
#include <tuple>
#include <vector>

#include "examples/mandelbrot_tile.hpp"

namespace {

constexpr int kTile = 64;

struct Arguments {
  std::string output = "mandelbrot.png";
  int width = 1600;
  int height = 1000;
  unsigned slots = 0;
  bool verify = false;
};

[[noreturn]] void usage() {
  std::fputs("usage: mandelbrot [--output FILE] [--width N] [--height N] [--slots N] [--verify]\n",
             stderr);
  std::exit(2);
}

int number(const char* text, int lowest, int highest) {
  char* end = nullptr;
  const long value = std::strtol(text, &end, 10);
  if (*text == '\0' || *end != '\0' || value < lowest || value > highest) usage();
  return static_cast<int>(value);
}

Arguments parse(int count, char** words) {
  Arguments arguments;
  for (int i = 1; i < count; ++i) {
    const std::string word = words[i];
    if (word == "--verify") {
      arguments.verify = true;
      continue;
    }
    if (i + 1 == count) usage();
    const char* next = words[++i];
    if (word == "--output") {
      arguments.output = next;
    } else if (word == "--width") {
      arguments.width = number(next, 1, 20'000);
    } else if (word == "--height") {
      arguments.height = number(next, 1, 20'000);
    } else if (word == "--slots") {
      arguments.slots = static_cast<unsigned>(number(next, 1, 4096));
    } else {
      usage();
    }
  }
  return arguments;
}

// width, height, left, top, columns, rows: the arguments of the task.
using Tile = std::tuple<int, int, int, int, int, int>;

std::vector<Tile> tiles_of(int width, int height) {
  std::vector<Tile> tiles;
  for (int top = 0; top < height; top += kTile) {
    for (int left = 0; left < width; left += kTile) {
      tiles.emplace_back(width, height, left, top, std::min(kTile, width - left),
                         std::min(kTile, height - top));
    }
  }
  return tiles;
}

void paste(std::string& picture, const Tile& tile, const muster::Bytes& pixels) {
  const auto [width, height, left, top, columns, rows] = tile;
  const std::size_t row_bytes = std::size_t{3} * static_cast<unsigned>(columns);
  for (int row = 0; row < rows; ++row) {
    const std::size_t to =
        3 * (static_cast<std::size_t>(top + row) * static_cast<std::size_t>(width) +
             static_cast<std::size_t>(left));
    std::memcpy(picture.data() + to,
                pixels.text().data() + static_cast<std::size_t>(row) * row_bytes, row_bytes);
  }
}

std::string render_over_pool(const Arguments& arguments) {
  muster::Options options;
  options.slots = arguments.slots;
  options.plugins = {MUSTER_PLUGIN_DIR "/mandelbrot_tiles.so"};
  muster::Producer producer(options);
  const std::vector<Tile> tiles = tiles_of(arguments.width, arguments.height);
  std::string picture(
      3 * static_cast<std::size_t>(arguments.width) * static_cast<std::size_t>(arguments.height),
      '\0');
  const bool show_progress = ::isatty(STDERR_FILENO) != 0;
  std::size_t done = 0;
  for (const auto& pixels : producer.map<muster::Bytes>("mandelbrot_tile", tiles)) {
    paste(picture, tiles[done++], pixels);
    if (show_progress) std::fprintf(stderr, "\r%zu of %zu tiles", done, tiles.size());
  }
  if (show_progress) std::fputc('\n', stderr);
  return picture;
}

bool write_png(const Arguments& arguments, const std::string& picture) {
  png_image image{};
  image.version = PNG_IMAGE_VERSION;
  image.width = static_cast<png_uint_32>(arguments.width);
  image.height = static_cast<png_uint_32>(arguments.height);
  image.format = PNG_FORMAT_RGB;
  if (png_image_write_to_file(&image, arguments.output.c_str(), 0, picture.data(), 0, nullptr) !=
      0) {
    return true;
  }
  std::fprintf(stderr, "mandelbrot: cannot write %s: %s\n", arguments.output.c_str(),
               image.message);
  return false;
}

}  // namespace

int main(int count, char** words) {
  const Arguments arguments = parse(count, words);
  using Clock = std::chrono::steady_clock;
  const auto seconds_since = [](Clock::time_point begin) {
    return std::chrono::duration<double>(Clock::now() - begin).count();
  };
  try {
    const auto begin = Clock::now();
    const std::string picture = render_over_pool(arguments);
    std::printf("%s: %d x %d pixels in %.2f s\n", arguments.output.c_str(), arguments.width,
                arguments.height, seconds_since(begin));
    if (!write_png(arguments, picture)) return 1;
    if (!arguments.verify) return 0;
    const auto verify_begin = Clock::now();
    const bool same = picture == mandelbrot::render({}, arguments.width, arguments.height, 0, 0,
                                                    arguments.width, arguments.height);
    std::printf("verify: %s (one thread: %.2f s)\n", same ? "identical" : "DIFFERENT",
                seconds_since(verify_begin));
    return same ? 0 : 1;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "mandelbrot: %s\n", error.what());
    return 1;
  }
}
