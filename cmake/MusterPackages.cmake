# Debian packages: scripts/package, or `cpack` in a build folder. One package per component of
# MusterInstall.cmake; what only packages have is installed by no plain `cmake --install`.
set(muster_packages muster muster-broker muster-worker libmuster libmuster-dev)
if(MUSTER_PYTHON)
  list(APPEND muster_packages python3-muster)
endif()
set(packaging ${PROJECT_SOURCE_DIR}/packaging)
set(library_package libmuster${PROJECT_VERSION_MAJOR}.${PROJECT_VERSION_MINOR})

# What dpkg knows of the other packages: this very version, they speak one protocol.
set(same_version "(= ${PROJECT_VERSION})")

function(muster_package component section)
  cmake_parse_arguments(PARSE_ARGV 2 arg "" "NAME;DETAILS;DEPENDS;RECOMMENDS;SUGGESTS;ARCH"
                        "CONTROL")
  if(NOT arg_NAME)
    set(arg_NAME ${component})
  endif()
  string(TOUPPER ${component} key)
  set(prefix CPACK_DEBIAN_${key}_PACKAGE)
  set(${prefix}_NAME ${arg_NAME} PARENT_SCOPE)
  set(${prefix}_SECTION ${section} PARENT_SCOPE)
  set(${prefix}_DEPENDS "${arg_DEPENDS}" PARENT_SCOPE)
  set(${prefix}_RECOMMENDS "${arg_RECOMMENDS}" PARENT_SCOPE)
  set(${prefix}_SUGGESTS "${arg_SUGGESTS}" PARENT_SCOPE)
  set(${prefix}_CONTROL_EXTRA "${arg_CONTROL}" PARENT_SCOPE)
  set(CPACK_DEBIAN_${key}_DESCRIPTION "${arg_DETAILS}" PARENT_SCOPE)

  set(documents ${CMAKE_INSTALL_DATAROOTDIR}/doc/${arg_NAME})
  install(FILES ${packaging}/debian/copyright ${PROJECT_BINARY_DIR}/packages/changelog.gz
          DESTINATION ${documents} COMPONENT ${component} EXCLUDE_FROM_ALL)
endfunction()

# Debian wants the change log packed.
file(MAKE_DIRECTORY ${PROJECT_BINARY_DIR}/packages)
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/CHANGELOG.md)
execute_process(COMMAND gzip -9nc ${PROJECT_SOURCE_DIR}/CHANGELOG.md
                OUTPUT_FILE ${PROJECT_BINARY_DIR}/packages/changelog.gz)

muster_package(
  muster net
  DETAILS "The command line: `muster run` runs a command for every line of its input on\n\
all slots of a pool, `muster status` shows the pool, and `muster keygen` makes keys\n\
for standing workers."
  RECOMMENDS "muster-broker ${same_version}, muster-worker ${same_version}")
muster_package(
  muster-broker net
  DETAILS "The broker takes tasks from programs and leases them to workers on this and other\n\
machines. Programs start one of their own when there is none; the services of this\n\
package are for brokers that stay."
  DEPENDS "muster ${same_version}, passwd"
  RECOMMENDS "muster-worker ${same_version}"
  CONTROL ${packaging}/debian/muster-broker/postinst ${packaging}/debian/muster-broker/prerm
          ${packaging}/debian/muster-broker/postrm ${packaging}/debian/muster-broker/conffiles)
muster_package(
  muster-worker net
  DETAILS "The worker runs commands, native functions and Python functions that a broker sends\n\
it, as many at once as the machine has cores. With the service of this package a\n\
machine offers its slots whenever it is up."
  DEPENDS "muster ${same_version}"
  SUGGESTS "python3-muster ${same_version}"
  CONTROL ${packaging}/debian/muster-worker/postinst ${packaging}/debian/muster-worker/prerm
          ${packaging}/debian/muster-worker/postrm ${packaging}/debian/muster-worker/conffiles)
muster_package(
  libmuster libs NAME ${library_package}
  DETAILS "What C++ programs that submit tasks are linked with."
  RECOMMENDS "muster-broker ${same_version}, muster-worker ${same_version}")
muster_package(
  libmuster-dev libdevel
  DETAILS "Headers and CMake package for C++ programs that submit tasks and for plug-ins whose\n\
functions workers run: find_package(muster)."
  DEPENDS "${library_package} ${same_version}, libmsgpack-cxx-dev, libboost-dev")
if(MUSTER_PYTHON)
  math(EXPR next_minor "${Python_VERSION_MINOR} + 1")
  muster_package(
    python3-muster python
    DETAILS "Pools for joblib, scikit-learn and concurrent.futures whose slots are on\n\
any machine. Machines whose workers run Python functions need it as well."
    DEPENDS "python3 (>= ${Python_VERSION_MAJOR}.${Python_VERSION_MINOR}), \
python3 (<< ${Python_VERSION_MAJOR}.${next_minor}), python3-cloudpickle"
    RECOMMENDS "muster-broker ${same_version}, muster-worker ${same_version}, python3-joblib, \
python3-threadpoolctl"
    SUGGESTS "python3-sklearn, python3-tqdm"
    CONTROL ${packaging}/debian/python3-muster/postinst ${packaging}/debian/python3-muster/prerm)
endif()

# Services: units, and settings that a person edits (conffiles).
foreach(program broker worker)
  set(component COMPONENT muster-${program} EXCLUDE_FROM_ALL)
  install(FILES ${packaging}/systemd/muster-${program}.service DESTINATION lib/systemd/system
          ${component})
  install(FILES ${packaging}/systemd/user/muster-${program}.service DESTINATION lib/systemd/user
          ${component})
  install(FILES ${packaging}/etc/${program}.toml DESTINATION /etc/muster ${component})
  install(FILES ${PROJECT_SOURCE_DIR}/docs/services.md
          DESTINATION ${CMAKE_INSTALL_DATAROOTDIR}/doc/muster-${program} ${component})
endforeach()
install(FILES ${packaging}/systemd/gpu.conf
        DESTINATION ${CMAKE_INSTALL_DATAROOTDIR}/doc/muster-worker/examples
        COMPONENT muster-worker EXCLUDE_FROM_ALL)
install(DIRECTORY DESTINATION /etc/muster/keys COMPONENT muster-broker EXCLUDE_FROM_ALL
        DIRECTORY_PERMISSIONS OWNER_READ OWNER_WRITE OWNER_EXECUTE)

set(CMAKE_SKIP_INSTALL_ALL_DEPENDENCY ON)  # scripts/package built what is needed
set(CPACK_GENERATOR DEB)
set(CPACK_DEB_COMPONENT_INSTALL ON)
set(CPACK_COMPONENTS_ALL ${muster_packages})
set(CPACK_SET_DESTDIR ON)  # some files are not below the prefix
set(CPACK_INSTALL_PREFIX /usr)
set(CPACK_STRIP_FILES ON)
set(CPACK_PACKAGE_NAME muster)
set(CPACK_PACKAGE_VERSION ${PROJECT_VERSION})
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "work queue over every machine you can ssh into")
set(CPACK_PACKAGE_VENDOR "The Muster developers")
set(CPACK_PACKAGE_CONTACT "The Muster developers <muster@localhost>")
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_LIBMUSTER_PACKAGE_GENERATE_SHLIBS ON)
set(CPACK_DEBIAN_PACKAGE_CONTROL_STRICT_PERMISSION ON)
set(CPACK_DEBIAN_COMPRESSION_TYPE zstd)
set(CPACK_THREADS 2)
include(CPack)
