# What makes bugs harder to use, should there be any: for every object and program of a build without sanitizers, which look for the
# same more thoroughly. tests/hardening_test.sh looks at the programs.

option(LAPLACED_HARDEN "Build with stack protector, fortified library calls, full RELRO and control-flow protection" ON)
if(NOT LAPLACED_HARDEN OR LAPLACED_SANITIZE)
  return()
endif()

include(CheckCXXCompilerFlag)
check_cxx_compiler_flag(-fcf-protection=full LAPLACED_HAS_CF_PROTECTION)  # x86
check_cxx_compiler_flag(-mbranch-protection=standard LAPLACED_HAS_BRANCH_PROTECTION)  # 64-bit ARM
if(LAPLACED_HAS_CF_PROTECTION)
  add_compile_options(-fcf-protection=full)
elseif(LAPLACED_HAS_BRANCH_PROTECTION)
  add_compile_options(-mbranch-protection=standard)
endif()
add_compile_options(-fstack-protector-strong)
# Needs optimisation: without it glibc warns and checks nothing. Some compilers define it by themselves.
set(optimised $<CONFIG:Release,RelWithDebInfo,MinSizeRel>)
add_compile_options($<${optimised}:-U_FORTIFY_SOURCE> $<${optimised}:-D_FORTIFY_SOURCE=2>)
# Compilers make such programs by default, but not all of them.
add_link_options(-Wl,-z,relro,-z,now,-z,noexecstack $<$<STREQUAL:$<TARGET_PROPERTY:TYPE>,EXECUTABLE>:-pie>)
