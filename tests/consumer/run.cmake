# cmake -D build_dir=… -D compiler=… -D bindir=… -P run.cmake: install, build the consumer, run it.
set(prefix ${build_dir}/consumer/prefix)
set(consumer ${build_dir}/consumer/build)
file(REMOVE_RECURSE ${build_dir}/consumer)

function(run)
  execute_process(COMMAND ${ARGV} COMMAND_ERROR_IS_FATAL ANY)
endfunction()

run(${CMAKE_COMMAND} --install ${build_dir} --prefix ${prefix})
run(${CMAKE_COMMAND} -G Ninja -S ${CMAKE_CURRENT_LIST_DIR} -B ${consumer}
    -D CMAKE_PREFIX_PATH=${prefix} -D CMAKE_CXX_COMPILER=${compiler})
run(${CMAKE_COMMAND} --build ${consumer})

set(ENV{PATH} ${prefix}/${bindir}:$ENV{PATH})
execute_process(COMMAND ${consumer}/consumer ${consumer}/square.so OUTPUT_VARIABLE output
                COMMAND_ERROR_IS_FATAL ANY)
if(NOT output STREQUAL "144\n")
  message(FATAL_ERROR "the consumer printed '${output}' instead of 144")
endif()
