# For test scripts, to be sourced: how they fail and how they wait.

fail() {
  printf '%s: %s\n' "$(basename "$0" .sh)" "$*" >&2
  exit 1
}

# Processes without which there is nothing to wait for.
watched=()

# wait_for WHAT SECONDS COMMAND...: polls until the command works; fails when a watched process has ended.
wait_for() {
  local what=$1 tenths=$(($2 * 10)) pid
  shift 2
  until "$@"; do
    for pid in "${watched[@]}"; do kill -0 "$pid" 2>/dev/null || fail "$what: process $pid ended"; done
    ((tenths-- > 0)) || fail "$what: not within its time"
    sleep 0.1
  done
}
