# LibTorch with its precompiled header, and the check that OpenBLAS serves it.

find_package(Torch REQUIRED)
# at::parallel_for is inline: in code that is compiled without OpenMP it runs on one thread, without a word.
find_package(OpenMP REQUIRED)

# Debian's LibTorch calls whatever is behind libblas.so.3. Reference BLAS there is about 40 times slower, and the pthread
# build of OpenBLAS brings a second thread pool that fights LibTorch's.
include(CheckCSourceRuns)
set(CMAKE_REQUIRED_LIBRARIES ${CMAKE_DL_LIBS})
foreach(blas_library libblas.so.3 liblapack.so.3)
  string(MAKE_C_IDENTIFIER ${blas_library} blas_id)
  check_c_source_runs("
    #include <dlfcn.h>
    int main(void) {
      void* blas = dlopen(\"${blas_library}\", RTLD_NOW | RTLD_GLOBAL);
      if (!blas) return 1;
      int (*parallel)(void) = (int (*)(void))dlsym(blas, \"openblas_get_parallel\");
      return parallel && parallel() == 2 ? 0 : 1;  /* 2: OpenMP */
    }" LAPLACED_OPENBLAS_${blas_id})
  if(NOT LAPLACED_OPENBLAS_${blas_id})
    unset(LAPLACED_OPENBLAS_${blas_id} CACHE)
    message(FATAL_ERROR
      "${blas_library} is not the OpenMP build of OpenBLAS, so linear algebra would be several to 40 times slower.\n"
      "Install it:  apt-get install libopenblas0-openmp\n"
      "If another BLAS is installed too, choose it for libblas.so.3, liblapack.so.3 and libopenblas.so.0:\n"
      "  update-alternatives --config NAME-x86_64-linux-gnu   (make deps-build does it)")
  endif()
endforeach()
unset(CMAKE_REQUIRED_LIBRARIES)

add_library(laplaced_torch_pch STATIC ${PROJECT_SOURCE_DIR}/server/model/torch_pch.cc)
target_link_libraries(laplaced_torch_pch PUBLIC ${TORCH_LIBRARIES} OpenMP::OpenMP_CXX PRIVATE laplaced_warnings)
target_include_directories(laplaced_torch_pch SYSTEM PUBLIC ${TORCH_INCLUDE_DIRS})
# Debian 13's Protobuf defines it for whoever links it (it means nothing here), and a precompiled header serves only code with the
# same macros.
target_compile_definitions(laplaced_torch_pch PUBLIC NOMINMAX)
set_target_properties(laplaced_torch_pch PROPERTIES POSITION_INDEPENDENT_CODE OFF)
target_compile_options(laplaced_torch_pch PRIVATE -fPIC -pthread)
target_precompile_headers(laplaced_torch_pch PRIVATE ${PROJECT_SOURCE_DIR}/server/model/torch_pch.h)

function(laplaced_use_torch TARGET)
  target_link_libraries(${TARGET} PUBLIC laplaced_torch_pch)
  target_precompile_headers(${TARGET} REUSE_FROM laplaced_torch_pch)
  # A precompiled header serves only code compiled the same way: executables too take -fPIC, not CMake's -fPIE, and all
  # of it -pthread, which some libraries bring along and others do not.
  set_target_properties(${TARGET} PROPERTIES POSITION_INDEPENDENT_CODE OFF)
  target_compile_options(${TARGET} PRIVATE -fPIC -pthread)
endfunction()
