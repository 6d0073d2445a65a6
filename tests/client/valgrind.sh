#!/bin/sh
# The tests of the C++ client and of the command line with every process under valgrind: fails at an invalid access, a use of
# what was never written, or memory that is definitely lost. Tests that fail because everything is thirty times slower are
# listed, and do not count. Usage: valgrind.sh CLIENT_TEST [GTEST_FILTER]
set -u
test=$1 filter=${2:-*}
command -v valgrind >/dev/null || { echo "needs valgrind: apt-get install valgrind" >&2; exit 1; }
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT
# Shells and tools of Debian are not looked at, but for the shell that starts the command line.
valgrind -q --leak-check=full --show-leak-kinds=definite --errors-for-leak-kinds=definite --num-callers=30 \
  --trace-children=yes --trace-children-skip='*/bash,*/script,*/env,*/python*,*/openssl,*/cat' --log-file="$logs/%p" \
  "$test" --gtest_brief=1 --gtest_filter="$filter" >"$logs/tests.txt" 2>&1
status=$?
grep 'FAILED  \] .* ms' "$logs/tests.txt"
tail -1 "$logs/tests.txt"
processes=$(ls "$logs" | grep -c '^[0-9]*$')
mv "$logs/tests.txt" "$logs/.tests.txt"
if [ -n "$(find "$logs" -type f -name '[0-9]*' -size +0)" ]; then
  cat "$logs"/[0-9]*
  echo "FAILED: valgrind found errors in $(find "$logs" -type f -name '[0-9]*' -size +0 | wc -l) of $processes processes" >&2
  exit 1
fi
if [ "$status" -gt 1 ]; then
  cat "$logs/.tests.txt"
  echo "FAILED: the tests ended with $status" >&2
  exit 1
fi
echo "$processes processes, no error and nothing definitely lost"
