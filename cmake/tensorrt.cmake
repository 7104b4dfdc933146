# The CUDA kernels and the TensorRT plugin, where nvcc and TensorRT's headers are found.
#
#   TENSORRT_ROOT                 folder with include/NvInfer.h: an unpacked TensorRT, or the public repository. Taken
#                                 from the environment, too; without it the system's include folders are searched.
#   DENSEPOSE_CUDA_ARCHITECTURES  which GPUs get machine code; the last also gets PTX, for all that come after it.
set(TENSORRT_ROOT "" CACHE PATH "Folder with TensorRT's include/")
if(NOT TENSORRT_ROOT)
  set(TENSORRT_ROOT "$ENV{TENSORRT_ROOT}")
endif()
set(DENSEPOSE_CUDA_ARCHITECTURES "" CACHE STRING "CUDA architectures; empty: chosen by nvcc's version")

find_path(TENSORRT_INCLUDE_DIR NvInfer.h HINTS "${TENSORRT_ROOT}/include" PATH_SUFFIXES "${CMAKE_LIBRARY_ARCHITECTURE}")
include(CheckLanguage)
check_language(CUDA)
if(NOT CMAKE_CUDA_COMPILER)
  list(APPEND DENSEPOSE_SUMMARY "TensorRT plugin: left out (no nvcc: put it on PATH or set CMAKE_CUDA_COMPILER)")
  return()
endif()
if(NOT TENSORRT_INCLUDE_DIR)
  list(APPEND DENSEPOSE_SUMMARY "TensorRT plugin: left out (no NvInfer.h: set TENSORRT_ROOT to a folder with include/NvInfer.h)")
  if(NOT DENSEPOSE_CUDA_TESTS)  # kernels by themselves serve nobody else
    return()
  endif()
endif()
if(NOT DENSEPOSE_CUDA_ARCHITECTURES)
  # JetPack 6 has CUDA 12.6, which knows Orin and Hopper; Blackwell came with 12.8.
  execute_process(COMMAND ${CMAKE_CUDA_COMPILER} --list-gpu-code OUTPUT_VARIABLE codes ERROR_QUIET)
  foreach(architecture 87 90 120)
    if(codes MATCHES "sm_${architecture}")
      list(APPEND DENSEPOSE_CUDA_ARCHITECTURES ${architecture}-real)
    endif()
  endforeach()
  # PTX of the oldest serves every GPU since: Ampere on desks and in servers (8.0, 8.6), Ada (8.9) and Thor (11.0).
  list(APPEND DENSEPOSE_CUDA_ARCHITECTURES 80-virtual)
endif()
set(CMAKE_CUDA_ARCHITECTURES ${DENSEPOSE_CUDA_ARCHITECTURES})
set(CMAKE_CUDA_STANDARD 17)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
enable_language(CUDA)
find_package(CUDAToolkit REQUIRED)

file(GLOB cuda_sources CONFIGURE_DEPENDS "${CMAKE_SOURCE_DIR}/csrc/*/*_cuda.cu")
add_library(densepose_cuda STATIC ${cuda_sources})
target_include_directories(densepose_cuda PUBLIC csrc)
# Contraction would let a comparison with a threshold fall differently than on the CPU.
target_compile_options(densepose_cuda PRIVATE --fmad=false -Xcompiler=-Wall,-Wextra
                       $<$<BOOL:${DENSEPOSE_WERROR}>:--Werror=all-warnings -Xcompiler=-Werror>)
if(TENSORRT_INCLUDE_DIR)
  add_subdirectory(plugins/tensorrt)
endif()
