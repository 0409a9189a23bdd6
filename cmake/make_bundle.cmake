# Packs the worker bundle (MusterBundle.cmake): cmake -D programs=... -D output=... -P this file.
# The same inputs give the same bytes, whoever builds where and when.
cmake_minimum_required(VERSION 3.25)
include(${CMAKE_CURRENT_LIST_DIR}/runtime_libraries.cmake)

set(stage ${output}.stage)
file(REMOVE_RECURSE ${stage})
file(MAKE_DIRECTORY ${stage}/bin ${stage}/lib)

file(COPY ${programs} DESTINATION ${stage}/bin)
set(modules "")
if(python_module)
  file(COPY ${python_source}/ DESTINATION ${stage}/python/muster
       FILES_MATCHING PATTERN "*.py" PATTERN "__pycache__" EXCLUDE)
  file(COPY ${python_module} DESTINATION ${stage}/python/muster)
  file(COPY ${node_source}/ DESTINATION ${stage}/share
       FILES_MATCHING PATTERN "*.py" PATTERN "__pycache__" EXCLUDE)
  list(APPEND modules ${python_module})
endif()

find_runtime_libraries(libraries EXECUTABLES ${programs} MODULES ${modules})
foreach(library ${libraries})
  cmake_path(GET library FILENAME name)
  file(REAL_PATH ${library} real)
  file(COPY_FILE ${real} ${stage}/lib/${name})
endforeach()

file(GLOB_RECURSE files ${stage}/bin/* ${stage}/lib/* ${stage}/python/*.so)
execute_process(COMMAND ${strip} --strip-unneeded ${files} COMMAND_ERROR_IS_FATAL ANY)
# Exactly these: CMake's build RPATH ends with an empty entry, which means the working directory.
foreach(file ${files})
  if(file MATCHES "/bin/")
    file(RPATH_SET FILE ${file} NEW_RPATH "$ORIGIN/../lib")
  elseif(file MATCHES "/python/")
    file(RPATH_SET FILE ${file} NEW_RPATH "$ORIGIN/../../lib")
  endif()
endforeach()
execute_process(COMMAND ${readelf} --version-info ${files} OUTPUT_VARIABLE symbols
                COMMAND_ERROR_IS_FATAL ANY)
string(REGEX MATCHALL "GLIBC_[0-9][0-9.]*" needed "${symbols}")
list(TRANSFORM needed REPLACE "GLIBC_" "")
list(SORT needed COMPARE NATURAL ORDER DESCENDING)
list(GET needed 0 glibc_version)
set(manifest "version ${version}\narch ${arch}\nglibc ${glibc_version}\n")
if(python_module)
  string(APPEND manifest "python ${python_version}\n")
endif()
file(WRITE ${stage}/manifest "${manifest}")

execute_process(COMMAND chmod -R u+rwX,go+rX,go-w ${stage} COMMAND_ERROR_IS_FATAL ANY)
execute_process(
  COMMAND ${tar} --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner --format=gnu -C
          ${stage} -cf - .
  COMMAND ${gzip} -n
  OUTPUT_FILE ${output}.part COMMAND_ERROR_IS_FATAL ANY)
file(SHA256 ${output}.part digest)
file(REMOVE_RECURSE ${stage})
# The digest first: who finds the archive finds the digest that is its own.
file(WRITE ${output}.sha256 "${digest}\n${manifest}")
file(RENAME ${output}.part ${output})
