# The GPU backend: one of three object libraries that every program links.
#   trireme_cuda_off   answers "this build has no CUDA" (no_cuda.cc of each folder)
#   trireme_cuda       the kernels, by nvcc, and cuBLASLt
#   trireme_cuda_simt  tests only: the kernels' sources as C++ (tests/harness/simt)
# The libraries above are the same in all three, so a program chooses its backend when it is linked.
set(TRIREME_CUDA_ARCHITECTURES "80-real;90a-real;100" CACHE STRING
    "GPU architectures to build for: real code of each, and PTX of the last for later GPUs")
set(TRIREME_CUDA_BACKEND trireme_cuda_off)
set(TRIREME_CUDA_FOUND "")    # what the summary says
set(TRIREME_CUDA_MISSING "")  # one line a missing part

# Finds the toolkit and the libraries; sets TRIREME_CUDA_READY when there is enough to build with.
macro(trireme_find_cuda)
  set(TRIREME_CUDA_READY OFF)
  find_program(TRIREME_NVCC nvcc HINTS $ENV{CUDACXX} $ENV{CUDA_HOME}/bin /usr/local/cuda/bin)
  find_package(CUDAToolkit 12.8 QUIET)
  if(TRIREME_NVCC AND CUDAToolkit_FOUND AND TARGET CUDA::cublasLt)
    set(CMAKE_CUDA_COMPILER ${TRIREME_NVCC})
    set(CMAKE_CUDA_ARCHITECTURES ${TRIREME_CUDA_ARCHITECTURES})
    if(CCACHE_PROGRAM AND NOT CMAKE_CUDA_COMPILER_LAUNCHER)
      set(CMAKE_CUDA_COMPILER_LAUNCHER ${CCACHE_PROGRAM})
    endif()
    # Of C++20, which the C++ sources are in, CMake 3.25 does not know that nvcc has it.
    set(CMAKE_CUDA_STANDARD 17)
    enable_language(CUDA)
    set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
    set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION -std=c++20)
    set(CMAKE_CUDA_STANDARD 20)
    set(TRIREME_CUDA_READY ON)
    list(APPEND TRIREME_CUDA_FOUND "toolkit ${CUDAToolkit_VERSION}, cuBLASLt")
  else()
    list(APPEND TRIREME_CUDA_MISSING
         "the CUDA toolkit 12.8 or later with nvcc and cuBLASLt: NVIDIA's package cuda-toolkit, \
then set CUDA_HOME or put nvcc on the PATH")
  endif()
  find_path(NCCL_INCLUDE_DIR nccl.h HINTS ${CUDAToolkit_INCLUDE_DIRS} $ENV{NCCL_HOME}/include)
  find_library(NCCL_LIBRARY nccl HINTS ${CUDAToolkit_LIBRARY_DIR} $ENV{NCCL_HOME}/lib)
  if(NCCL_INCLUDE_DIR AND NCCL_LIBRARY)
    list(APPEND TRIREME_CUDA_FOUND "NCCL")
  else()
    list(APPEND TRIREME_CUDA_MISSING
         "NCCL 2.27 or later (several GPUs then talk by MPI): NVIDIA's package libnccl-dev, or \
set NCCL_HOME")
  endif()
  # Its headers alone: the library is loaded when attention first runs.
  find_path(CUDNN_INCLUDE_DIR cudnn_graph.h HINTS ${CUDAToolkit_INCLUDE_DIRS}
            $ENV{CUDNN_HOME}/include)
  set(CUDNN_VERSION 0)
  if(CUDNN_INCLUDE_DIR)
    file(STRINGS ${CUDNN_INCLUDE_DIR}/cudnn_version.h lines REGEX "define CUDNN_(MAJOR|MINOR) ")
    string(REGEX REPLACE ".*MAJOR ([0-9]+).*MINOR ([0-9]+).*" "\\1.\\2" CUDNN_VERSION "${lines}")
  endif()
  if(CUDNN_VERSION VERSION_GREATER_EQUAL 9.11)
    set(TRIREME_CUDNN *_cudnn.cc)
    list(APPEND TRIREME_CUDA_FOUND "cuDNN ${CUDNN_VERSION}")
  else()
    set(TRIREME_CUDNN no_cudnn.cc)
    list(APPEND TRIREME_CUDA_MISSING
         "cuDNN's headers, 9.11 or later (attention then runs on the program's own kernel): NVIDIA's \
package cudnn, or set CUDNN_HOME")
  endif()
endmacro()

if(TRIREME_CUDA)
  trireme_find_cuda()
  foreach(line ${TRIREME_CUDA_MISSING})
    message(WARNING "TRIREME_CUDA=ON, not found: ${line}")
  endforeach()
  if(TRIREME_CUDA_READY)
    set(TRIREME_CUDA_BACKEND trireme_cuda)
    list(JOIN TRIREME_CUDA_FOUND ", " found)
    list(JOIN TRIREME_CUDA_ARCHITECTURES " " architectures)
    message(STATUS "GPU backend: ${found}; architectures ${architectures}")
  else()
    message(WARNING "GPU backend: none, for want of the above. The CPU build is whole.")
  endif()
endif()

set(gpu_folders cluster/device worker/kernels worker/optimizer)

# Builds a backend's object library of the files that match a pattern in each of the folders.
function(trireme_backend_sources variable)
  set(patterns)
  foreach(folder ${gpu_folders})
    foreach(name ${ARGN})
      list(APPEND patterns ${CMAKE_SOURCE_DIR}/${folder}/${name})
    endforeach()
  endforeach()
  file(GLOB sources CONFIGURE_DEPENDS ${patterns})
  set(${variable} ${sources} PARENT_SCOPE)
endfunction()

trireme_backend_sources(off_sources no_cuda.cc no_cudnn.cc)
add_library(trireme_cuda_off OBJECT ${off_sources})
target_link_libraries(trireme_cuda_off PUBLIC cluster_device)

if(TRIREME_CUDA_BACKEND STREQUAL "trireme_cuda")
  trireme_backend_sources(cuda_sources *_cuda.cu *_cuda.cc ${TRIREME_CUDNN})
  list(FILTER cuda_sources EXCLUDE REGEX "/no_cuda\\.cc$")
  if(NOT TRIREME_CUDNN STREQUAL "no_cudnn.cc")
    list(FILTER cuda_sources EXCLUDE REGEX "/no_cudnn\\.cc$")
  endif()
  add_library(trireme_cuda OBJECT ${cuda_sources})
  set_target_properties(trireme_cuda PROPERTIES UNITY_BUILD OFF)  # kernels take their time, each by itself
  target_link_libraries(trireme_cuda PUBLIC worker_optimizer worker_kernels cluster_device
                        CUDA::cublasLt CUDA::cudart_static ${CMAKE_DL_LIBS})
  if(CUDNN_INCLUDE_DIR)
    target_include_directories(trireme_cuda SYSTEM PRIVATE ${CUDNN_INCLUDE_DIR})
  endif()
  # Line numbers for the profiler. A product and a sum are fused where the code says so, as on a CPU.
  set(nvcc_options -lineinfo --expt-relaxed-constexpr -fmad=false)
  target_compile_options(trireme_cuda PRIVATE "$<$<COMPILE_LANGUAGE:CUDA>:${nvcc_options}>")
endif()
