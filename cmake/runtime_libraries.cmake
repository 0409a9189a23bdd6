# find_runtime_libraries(<variable> EXECUTABLES ... MODULES ... LEAVE <regex>): every shared library
# that these load, by path, but what LEAVE matches and what belongs to the C library of the machine
# where they will run: its parts and the loader must be of one version, and glibc is compatible
# upwards. A library that is not there is an error.
function(find_runtime_libraries variable)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "LEAVE" "EXECUTABLES;MODULES")
  set(glibc "ld-linux|ld64|libc|libm|libmvec|libpthread|libdl|librt|libresolv|libutil|libnsl")
  set(glibc "${glibc}|libanl|libBrokenLocale|libthread_db|libc_malloc_debug|libnss_[a-z]+")
  set(left "^(${glibc})[-._]")
  if(arg_LEAVE)
    list(APPEND left "${arg_LEAVE}")
  endif()
  file(GET_RUNTIME_DEPENDENCIES
    EXECUTABLES ${arg_EXECUTABLES}
    MODULES ${arg_MODULES}
    RESOLVED_DEPENDENCIES_VAR found
    UNRESOLVED_DEPENDENCIES_VAR missing
    PRE_EXCLUDE_REGEXES ${left})
  if(missing)
    message(FATAL_ERROR "libraries that the programs need are not on this machine: ${missing}")
  endif()
  set(${variable} ${found} PARENT_SCOPE)
endfunction()
