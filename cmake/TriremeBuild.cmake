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
# Of tests: a quarter less time to build.
set(TRIREME_TEST_OPTIMIZATION $<$<COMPILE_LANGUAGE:CXX>:-O1>)
if(TRIREME_SANITIZE)
  set(CMAKE_CXX_FLAGS_RELEASE "-O1")  # what a sanitizer adds takes the optimiser minutes
endif()

find_program(CCACHE_PROGRAM ccache)
if(CCACHE_PROGRAM AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  # What ccache wants to be told before it takes files with precompiled headers.
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CMAKE_COMMAND} -E env
      CCACHE_SLOPPINESS=pch_defines,time_macros,include_file_mtime,include_file_ctime ${CCACHE_PROGRAM})
  if(CMAKE_CXX_COMPILER_ID STREQUAL GNU)
    add_compile_options($<$<COMPILE_LANGUAGE:CXX>:-fpch-preprocess>)
  endif()
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

# Reading the headers of the standard library, glog, protobuf and JSON is half of what most files
# cost. They are compiled once for all libraries, and once more with what commands and tests read
# besides; -DCMAKE_DISABLE_PRECOMPILE_HEADERS=ON builds without.
set(TRIREME_COMMON_HEADERS
    <algorithm> <array> <atomic> <chrono> <cmath> <condition_variable> <cstdint> <cstring> <deque>
    <filesystem> <fstream> <functional> <iostream> <map> <memory> <mutex> <numeric> <optional> <set>
    <span> <sstream> <string> <string_view> <thread> <unordered_map> <utility> <variant> <vector>
    <glog/logging.h> <google/protobuf/message.h> <nlohmann/json.hpp>)

# Several files at once in each compiler: what they read and instantiate in common costs once. An
# anonymous namespace is then one of all of them, so their names differ within a folder.
# -DCMAKE_UNITY_BUILD=OFF compiles file by file, which is quicker after a change.
set(CMAKE_UNITY_BUILD ON CACHE BOOL "Compile several files at once")
set(CMAKE_UNITY_BUILD_BATCH_SIZE 16)
if(CMAKE_UNITY_BUILD AND CMAKE_CXX_COMPILER_ID STREQUAL GNU)
  # What g++ sees in the wrong light there; it looks file by file where that is asked for.
  add_compile_options("$<$<COMPILE_LANGUAGE:CXX>:-Wno-subobject-linkage;-Wno-maybe-uninitialized;-Wno-stringop-overflow>")
endif()

# trireme_precompiled(NAME [HEADERS header...] [DEPS target...]): the common headers and these.
function(trireme_precompiled name)
  cmake_parse_arguments(ARG "" "" "HEADERS;DEPS" ${ARGN})
  file(WRITE ${CMAKE_BINARY_DIR}/${name}.cc "")
  add_library(${name} OBJECT ${CMAKE_BINARY_DIR}/${name}.cc)
  target_link_libraries(${name} PRIVATE trireme_glog protobuf::libprotobuf
                                        nlohmann_json::nlohmann_json ${ARG_DEPS})
  target_precompile_headers(${name} PRIVATE ${TRIREME_COMMON_HEADERS} ${ARG_HEADERS})
endfunction()

# trireme_library(NAME [EXCLUDE file...] [DEPS target...]): all *.cc of the current folder as one
# static library. EXCLUDE names the files of optional parts; the caller adds the chosen one. Files
# of the GPU backends belong to these (TriremeCuda.cmake). NO_PRECOMPILED: its compiler options are
# others than those of the precompiled headers.
function(trireme_library name)
  cmake_parse_arguments(ARG "NO_PRECOMPILED" "" "EXCLUDE;DEPS" ${ARGN})
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
  if(ARG_NO_PRECOMPILED)
    set_target_properties(${name} PROPERTIES UNITY_BUILD OFF)
  else()
    target_precompile_headers(${name} REUSE_FROM trireme_headers)
  endif()
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
  target_precompile_headers(${name} REUSE_FROM trireme_test_headers)
  # A property without a value would swallow the name of the next one.
  set(properties ENVIRONMENT "OMP_WAIT_POLICY=passive")
  if(ARG_LABELS)
    list(APPEND properties LABELS "${ARG_LABELS}")
  endif()
  gtest_discover_tests(${name} DISCOVERY_TIMEOUT 60 PROPERTIES ${properties})
endfunction()
