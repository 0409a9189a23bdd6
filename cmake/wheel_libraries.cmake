# Part of `cmake --install` of a wheel (MusterWheel.cmake): copies the libraries that its programs
# and its module load, and makes them find each other wherever the package is.
include(${CMAKE_CURRENT_LIST_DIR}/runtime_libraries.cmake)

set(package ${CMAKE_INSTALL_PREFIX}/muster)
file(GLOB programs ${package}/bin/*)
file(GLOB modules ${package}/_native.*.so)

# The C++ runtime is the machine's own, as with every wheel: in one process there can be but one,
# and other packages may need a newer one than this machine has.
find_runtime_libraries(libraries EXECUTABLES ${programs} MODULES ${modules}
                       LEAVE "^lib(stdc\\+\\+|gcc_s)\\.so")

# Each under a name of its own: a process has one library of a name, and other packages bring other
# versions of these.
file(MAKE_DIRECTORY ${package}/lib)
set(renames "")
set(copies "")
foreach(library ${libraries})
  cmake_path(GET library FILENAME name)
  string(REGEX REPLACE "^(.+)(\\.so.*)$" "\\1-muster\\2" own_name ${name})
  file(REAL_PATH ${library} real)
  file(COPY_FILE ${real} ${package}/lib/${own_name})
  list(APPEND copies ${package}/lib/${own_name})
  list(APPEND renames --replace-needed ${name} ${own_name})
endforeach()

function(patch file)
  execute_process(COMMAND ${patchelf} ${ARGN} ${renames} ${file} COMMAND_ERROR_IS_FATAL ANY)
endfunction()

foreach(file ${copies})
  cmake_path(GET file FILENAME own_name)
  patch(${file} --set-soname ${own_name} --set-rpath "$ORIGIN")
endforeach()
foreach(file ${programs})
  patch(${file} --set-rpath "$ORIGIN/../lib")
endforeach()
foreach(file ${modules})
  patch(${file} --set-rpath "$ORIGIN/lib")
endforeach()

# Who passes a library on passes its license on: of the libraries above, and of those whose headers
# are compiled in.
set(packages
    cppzmq-dev libboost-dev libcli11-dev libfmt-dev libmsgpack-cxx-dev libspdlog-dev
    libtomlplusplus-dev libxxhash-dev nlohmann-json3-dev pybind11-dev)
foreach(library ${libraries})
  file(REAL_PATH ${library} real)
  string(REGEX REPLACE "^/usr/" "/" short ${real})
  execute_process(COMMAND dpkg-query --search ${real} ${short} OUTPUT_VARIABLE owners ERROR_QUIET)
  if(NOT owners MATCHES "^([^:]+):")
    message(FATAL_ERROR "${library} is of no Debian package, so its license is not known: build "
                        "wheels with Debian's own libraries (scripts/setup)")
  endif()
  list(APPEND packages ${CMAKE_MATCH_1})
endforeach()
list(REMOVE_DUPLICATES packages)
set(common "")
foreach(package_name ${packages})
  set(copyright /usr/share/doc/${package_name}/copyright)
  if(NOT EXISTS ${copyright})
    message(FATAL_ERROR "${copyright} is missing: wheels carry the licenses of their libraries; "
                        "run scripts/setup")
  endif()
  file(READ ${copyright} text)
  file(WRITE ${licenses}/${package_name}.txt "${text}")
  string(REGEX MATCHALL "/usr/share/common-licenses/[A-Za-z]+-[0-9.]*[0-9]" named "${text}")
  list(APPEND common ${named})
endforeach()
list(REMOVE_DUPLICATES common)
foreach(file ${common})
  if(EXISTS ${file})
    file(REAL_PATH ${file} real)
    file(COPY ${real} DESTINATION ${licenses}/common-licenses)
  endif()
endforeach()
