# Every library Muster needs, all of them Debian 12 packages (scripts/setup installs them).
find_package(PkgConfig REQUIRED)
find_package(Threads REQUIRED)
find_package(cppzmq REQUIRED)
find_package(msgpack CONFIG REQUIRED)  # Debian's name of the package; the target is msgpackc-cxx
find_package(fmt REQUIRED)
find_package(spdlog REQUIRED)
find_package(tomlplusplus REQUIRED)
find_package(CLI11 REQUIRED)
find_package(nlohmann_json REQUIRED)
pkg_check_modules(lz4 REQUIRED IMPORTED_TARGET liblz4)
pkg_check_modules(libssh REQUIRED IMPORTED_TARGET libssh)
find_package(OpenSSL REQUIRED COMPONENTS Crypto)  # libssh-dev brings it
pkg_check_modules(xxhash REQUIRED IMPORTED_TARGET libxxhash)
if(MUSTER_TESTS)
  find_package(GTest REQUIRED)
endif()
if(MUSTER_BENCH)
  find_package(benchmark REQUIRED)
endif()
if(MUSTER_EXAMPLES)
  find_package(PNG REQUIRED)
endif()
if(MUSTER_PYTHON)
  # Debian's interpreter, for which Debian's pybind11 and joblib are; PATH may have another first.
  set(MUSTER_PYTHON_EXECUTABLE /usr/bin/python3
      CACHE FILEPATH "The interpreter that the Python package is built for")
  if(NOT SKBUILD)  # a wheel is for the interpreter that builds it
    set(Python_EXECUTABLE ${MUSTER_PYTHON_EXECUTABLE})
  endif()
  find_package(Python 3.9 REQUIRED COMPONENTS Interpreter Development.Module)
  find_package(pybind11 2.10 REQUIRED)
endif()
