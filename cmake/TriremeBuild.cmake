# Compiler settings and the two functions by which every room declares itself.
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release)
endif()
# -O2 with vectorisation: -O3 costs build time and gains nothing measured outside the kernels.
set(CMAKE_CXX_FLAGS_RELEASE "-O2 -ftree-vectorize")

find_program(CCACHE_PROGRAM ccache)
if(CCACHE_PROGRAM AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CCACHE_PROGRAM})
endif()

set(cxx_options -Wall -Wextra -Wno-unused-parameter -Wno-missing-field-initializers
                -march=${TRIREME_ARCH})
add_compile_options("$<$<COMPILE_LANGUAGE:CXX>:${cxx_options}>")
if(TRIREME_SANITIZE)
  set(sanitize_options -fsanitize=${TRIREME_SANITIZE} -fno-omit-frame-pointer -g1)
  add_compile_options("$<$<COMPILE_LANGUAGE:CXX>:${sanitize_options}>")
  add_link_options(-fsanitize=${TRIREME_SANITIZE})
endif()
include_directories(${CMAKE_SOURCE_DIR})
include_directories(SYSTEM ${CMAKE_BINARY_DIR})  # generated protobuf headers: "proto/x.pb.h"

# trireme_library(NAME [EXCLUDE file...] [DEPS target...]): all *.cc of the current folder as one
# static library. EXCLUDE names the files of optional parts; the caller adds the chosen one. Files
# of the GPU backends belong to these (TriremeCuda.cmake).
function(trireme_library name)
  cmake_parse_arguments(ARG "" "" "EXCLUDE;DEPS" ${ARGN})
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*.cc)
  list(FILTER sources EXCLUDE REGEX "/(no_cuda|no_cudnn|[a-z_0-9]+_cuda|[a-z_0-9]+_cudnn)\\.cc$")
  foreach(file ${ARG_EXCLUDE})
    list(REMOVE_ITEM sources ${CMAKE_CURRENT_SOURCE_DIR}/${file})
  endforeach()
  if(NOT sources)
    add_library(${name} INTERFACE)
    target_link_libraries(${name} INTERFACE ${ARG_DEPS})
    return()
  endif()
  add_library(${name} STATIC ${sources})
  target_link_libraries(${name} PUBLIC ${ARG_DEPS})
endfunction()

# trireme_program(TARGET [CUDA backend]): the target's GPU backend, the configured one by default.
function(trireme_program name)
  cmake_parse_arguments(ARG "" "CUDA" "" ${ARGN})
  if(NOT ARG_CUDA)
    set(ARG_CUDA ${TRIREME_CUDA_BACKEND})
  endif()
  target_link_libraries(${name} PRIVATE ${ARG_CUDA})
endfunction()

# trireme_test(NAME [CUDA backend] [LABELS label...] [DEPS target...]): all *_test.cc of the current
# folder as one program; ctest knows every test of it by name.
function(trireme_test name)
  cmake_parse_arguments(ARG "" "CUDA" "LABELS;DEPS" ${ARGN})
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*_test.cc)
  if(NOT sources)
    return()
  endif()
  add_executable(${name} ${sources})
  trireme_program(${name} CUDA ${ARG_CUDA})
  target_link_libraries(${name} PRIVATE ${ARG_DEPS} GTest::gmock_main)
  target_precompile_headers(${name} PRIVATE <gtest/gtest.h>)
  # A property without a value would swallow the name of the next one.
  set(properties ENVIRONMENT "OMP_WAIT_POLICY=passive")
  if(ARG_LABELS)
    list(APPEND properties LABELS "${ARG_LABELS}")
  endif()
  gtest_discover_tests(${name} DISCOVERY_TIMEOUT 60 PROPERTIES ${properties})
endfunction()
