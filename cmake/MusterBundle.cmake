# The worker bundle: what a machine without Muster needs to run tasks, in one archive that the
# broker uploads (docs/hosts.md). Programs, the libraries they need but for glibc's, the Python
# package.
set(MUSTER_BUNDLE ${PROJECT_BINARY_DIR}/share/muster/worker-bundle.tar.gz)

# The bundle's programs find its libraries, and those each other, wherever it is unpacked. (An
# installation drops this again: CMake does with every build RPATH.)
foreach(target muster-worker muster-runner)
  set_target_properties(${target} PROPERTIES BUILD_RPATH "$ORIGIN/../lib")
  target_link_options(${target} PRIVATE -Wl,--disable-new-dtags)
endforeach()
if(MUSTER_PYTHON)
  set_target_properties(muster_native PROPERTIES BUILD_RPATH "$ORIGIN/../../lib")
  target_link_options(muster_native PRIVATE -Wl,--disable-new-dtags)
endif()

# A sanitizer's runtime is no part of a bundle.
if(CMAKE_CXX_FLAGS MATCHES "-fsanitize")
  return()
endif()

find_program(MUSTER_TAR tar REQUIRED)
find_program(MUSTER_GZIP gzip REQUIRED)

set(programs $<TARGET_FILE:muster-worker> $<TARGET_FILE:muster-runner>)
set(inputs muster-worker muster-runner ${PROJECT_SOURCE_DIR}/cmake/make_bundle.cmake
    ${PROJECT_SOURCE_DIR}/cmake/runtime_libraries.cmake)
set(python_module "")
set(python_source "")
if(MUSTER_PYTHON)
  set(python_module $<TARGET_FILE:muster_native>)
  set(python_source ${PROJECT_SOURCE_DIR}/python/muster)
  file(GLOB_RECURSE files CONFIGURE_DEPENDS ${python_source}/*.py
       ${PROJECT_SOURCE_DIR}/python/node/*.py)
  list(APPEND inputs muster_native ${files})
endif()

add_custom_command(
  OUTPUT ${MUSTER_BUNDLE} ${MUSTER_BUNDLE}.sha256
  COMMAND
    ${CMAKE_COMMAND} -D "programs=${programs}" -D python_module=${python_module} -D
    python_source=${python_source} -D node_source=${PROJECT_SOURCE_DIR}/python/node -D
    output=${MUSTER_BUNDLE} -D version=${PROJECT_VERSION} -D arch=${CMAKE_SYSTEM_PROCESSOR} -D
    python_version=${Python_VERSION_MAJOR}.${Python_VERSION_MINOR} -D strip=${CMAKE_STRIP} -D
    readelf=${CMAKE_READELF} -D tar=${MUSTER_TAR} -D gzip=${MUSTER_GZIP} -P
    ${PROJECT_SOURCE_DIR}/cmake/make_bundle.cmake
  DEPENDS ${inputs}
  COMMENT "Packing the worker bundle"
  VERBATIM)
add_custom_target(worker-bundle ALL DEPENDS ${MUSTER_BUNDLE})
add_dependencies(programs worker-bundle)

install(FILES ${MUSTER_BUNDLE} ${MUSTER_BUNDLE}.sha256
        DESTINATION ${CMAKE_INSTALL_DATADIR}/muster)
