#!/bin/sh
# Looks whether programs were built with the flags of cmake/laplaced_hardening.cmake. Usage: hardening_test.sh PROGRAM...
set -u
failed=0

# expect PROGRAM WHAT COMMAND...: the command must find something.
expect() {
  program=$1 what=$2
  shift 2
  if "$@" >/dev/null 2>&1; then return; fi
  echo "$program: $what" >&2
  failed=1
}

command -v readelf >/dev/null || { echo "skipped: needs readelf (binutils)" >&2; exit 77; }
for program in "$@"; do
  header=$(readelf --wide --file-header "$program")
  segments=$(readelf --wide --segments "$program")
  dynamic=$(readelf --wide --dynamic "$program")
  symbols=$(readelf --wide --dyn-syms "$program")
  has() { printf '%s\n' "$1" | grep -qE "$2"; }
  expect "$program" "is not position-independent" has "$header" 'Type: +DYN'
  expect "$program" "is a library, or not position-independent" has "$dynamic" 'FLAGS_1.*PIE'
  expect "$program" "has no read-only relocations" has "$segments" 'GNU_RELRO'
  expect "$program" "binds symbols when they are used, so relocations stay writable" has "$dynamic" 'BIND_NOW|FLAGS_1.*NOW'
  expect "$program" "has an executable stack" has "$segments" 'GNU_STACK.* RW +0x'
  expect "$program" "has a segment that can be written and executed" sh -c '! printf "%s\n" "$1" | grep -q "LOAD.* RWE "' - "$segments"
  expect "$program" "has no stack protector" has "$symbols" '__stack_chk_fail'
  expect "$program" "calls nothing that _FORTIFY_SOURCE checks" has "$symbols" '__(mem|str|read|recv|poll|f?printf|snprintf|vsnprintf|explicit_bzero|realpath)[a-z]*_chk'
  expect "$program" "looks for libraries in a folder of the build or of the caller" sh -c '! printf "%s\n" "$1" | grep -qE "R(UN)?PATH.*\[[^/$]|R(UN)?PATH.*/tmp"' - "$dynamic"
  if has "$header" 'Machine:.*X86-64' && command -v objdump >/dev/null; then
    # The compiler's own start-up code has some; every function that may be called through a pointer should.
    marks=$(objdump -d --section=.text --no-show-raw-insn "$program" | grep -c endbr64)
    expect "$program" "has no control-flow protection" test "$marks" -gt 100
  fi
done
[ $failed = 0 ] && echo "hardened: $*"
exit $failed
