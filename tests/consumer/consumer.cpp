#include <cstdint>
#include <iostream>
#include <muster/producer.hpp>

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  muster::Producer producer(muster::Options{.plugins = {argv[1]}});
  std::cout << producer.submit<std::int64_t>("square", std::int64_t{12}).get() << '\n';
}
