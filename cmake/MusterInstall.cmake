# `cmake --install` and the package that find_package(muster) finds. Components are Debian packages
# (MusterPackages.cmake).
include(CMakePackageConfigHelpers)

set(muster_package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/muster)

install(TARGETS muster_cli RUNTIME COMPONENT muster)
install(TARGETS muster-broker RUNTIME COMPONENT muster-broker)
install(TARGETS muster-worker muster-runner RUNTIME COMPONENT muster-worker)
install(TARGETS muster_headers muster_task muster_producer EXPORT muster-targets
        LIBRARY COMPONENT libmuster NAMELINK_COMPONENT libmuster-dev)
install(DIRECTORY ${PROJECT_SOURCE_DIR}/common/include/ ${PROJECT_SOURCE_DIR}/worker/include/
                  ${PROJECT_SOURCE_DIR}/producer/include/
        DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} COMPONENT libmuster-dev
        FILES_MATCHING PATTERN "*.hpp")

if(MUSTER_PYTHON)
  set(MUSTER_PYTHON_INSTALL_DIR lib/python3/dist-packages
      CACHE STRING "Where the Python package is installed, below the prefix or absolute")
  install(TARGETS muster_native LIBRARY DESTINATION ${MUSTER_PYTHON_INSTALL_DIR}/muster
                                        COMPONENT python3-muster)
  install(DIRECTORY ${PROJECT_SOURCE_DIR}/python/muster DESTINATION ${MUSTER_PYTHON_INSTALL_DIR}
          COMPONENT python3-muster FILES_MATCHING PATTERN "*.py" PATTERN "*.pyi" PATTERN "py.typed"
          PATTERN "__pycache__" EXCLUDE)
endif()

install(EXPORT muster-targets NAMESPACE muster:: DESTINATION ${muster_package_dir}
        COMPONENT libmuster-dev)
configure_package_config_file(
  ${PROJECT_SOURCE_DIR}/cmake/muster-config.cmake.in ${PROJECT_BINARY_DIR}/muster-config.cmake
  INSTALL_DESTINATION ${muster_package_dir})
write_basic_package_version_file(
  ${PROJECT_BINARY_DIR}/muster-config-version.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/muster-config.cmake
              ${PROJECT_BINARY_DIR}/muster-config-version.cmake
        DESTINATION ${muster_package_dir} COMPONENT libmuster-dev)
