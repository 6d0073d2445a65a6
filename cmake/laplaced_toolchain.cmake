# Compiler cache, linker, warnings, sanitizers and coverage: one interface target that every room links.

find_program(CCACHE_PROGRAM ccache)
if(CCACHE_PROGRAM AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  # The sloppiness settings are what ccache needs to cache files that use a precompiled header.
  set(CMAKE_CXX_COMPILER_LAUNCHER
      ${CMAKE_COMMAND} -E env CCACHE_SLOPPINESS=pch_defines,time_macros,include_file_mtime,include_file_ctime
      ${CCACHE_PROGRAM})
endif()

# Not mold 1, which Debian 12 has: where a program's only thread-local variables are zero and its code ends less than 16 bytes before
# the end of a page, RELRO begins on a page that nothing is mapped to, and the program cannot be started.
find_program(MOLD_PROGRAM mold)
if(MOLD_PROGRAM AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  execute_process(COMMAND ${MOLD_PROGRAM} --version OUTPUT_VARIABLE mold_version)
  string(REGEX MATCH "[0-9]+[.][0-9.]+" mold_version "${mold_version}")
  if(mold_version VERSION_GREATER_EQUAL 2)
    add_link_options(-fuse-ld=mold)
  endif()
endif()

if(LAPLACED_FUZZ)
  if(NOT CMAKE_CXX_COMPILER_ID MATCHES "Clang")
    message(FATAL_ERROR "LAPLACED_FUZZ needs libFuzzer, which comes with Clang: cmake --preset fuzz")
  endif()
  # Whatever a sanitizer finds ends the program, so that libFuzzer keeps the input.
  add_compile_options(-fsanitize=fuzzer-no-link -fno-sanitize-recover=all)
endif()

if(LAPLACED_SANITIZE)
  add_compile_options(-fsanitize=${LAPLACED_SANITIZE} -fno-omit-frame-pointer)
  add_link_options(-fsanitize=${LAPLACED_SANITIZE})
endif()

option(LAPLACED_COVERAGE "Count which lines run; any preset, sanitizers too" OFF)
if(LAPLACED_COVERAGE)
  # Counters of threads must not lose each other's counts.
  add_compile_options(--coverage -fprofile-update=prefer-atomic)
  add_link_options(--coverage)
endif()

add_library(laplaced_warnings INTERFACE)
target_compile_options(laplaced_warnings INTERFACE -Wall -Wextra -Werror -Wnon-virtual-dtor -Woverloaded-virtual)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  # GCC 12 and 14 report these inside inlined library code (std::regex, fmt) where nothing is wrong.
  target_compile_options(laplaced_warnings INTERFACE -Wno-maybe-uninitialized)
endif()
