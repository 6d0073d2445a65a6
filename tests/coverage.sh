#!/bin/sh
# coverage.sh BUILD: of a build with LAPLACED_COVERAGE whose tests have run, the lines of server/, client/ and formats/ that ran: a
# table on standard output and BUILD/coverage/index.html. Exit status 1 below 85 % of lines.
#
# Lines are counted as gcc's own tool does; branches of exceptions are not looked at. A process that was killed leaves no counts,
# so what only runs in servers that tests kill counts as not run.
set -eu
[ $# = 1 ] || { echo "usage: coverage.sh BUILD" >&2; exit 2; }
build=$1
command -v gcovr >/dev/null || { echo "coverage.sh: gcovr is missing; install Debian's package gcovr" >&2; exit 1; }
mkdir -p "$build/coverage"
exec gcovr --root . --object-directory "$build" --filter server/ --filter client/ --filter formats/ --exclude-throw-branches \
  --gcov-ignore-parse-errors --txt --html-details "$build/coverage/index.html" --print-summary --sort-percentage --fail-under-line 85 "$build"
