#!/usr/bin/env bash
# Runs one program in an image's root file system as a container runtime would: as process 1 and the given user, without
# privileges, on a read-only root, with /proc, /sys, five devices and the environment that is given. Nothing else of this
# machine's files can be seen; its network can. As root.
#
#   docker/image/run_root.sh ROOT UID:GID [--env NAME=VALUE] [--mount SOURCE:TARGET[:ro]] ... -- PROGRAM ARGUMENT...
#
# The exit code is the program's. To end the program before its time, kill it, not this process (it is this one's only child).
set -euo pipefail

if [[ ${1:-} != --inside ]]; then
  exec unshare --mount --pid --fork -- "$0" --inside "$@"
fi
shift
view=$1 user=$2
shift 2
environment=()
mount --make-rprivate /
mount --bind "$view" "$view"
mount -t proc -o nosuid,nodev,noexec proc "$view/proc"
mount -t sysfs -o ro,nosuid,nodev,noexec sysfs "$view/sys"
mount -t tmpfs -o mode=755,size=64k tmpfs "$view/dev"
for device in null zero full random urandom; do
  : >"$view/dev/$device"
  mount --bind "/dev/$device" "$view/dev/$device"
done
while [[ $1 != -- ]]; do
  case $1 in
    --env) environment+=("$2") ;;
    --mount)
      IFS=: read -r source target mode <<<"$2"
      mount --bind "$source" "$view$target"
      [[ $mode != ro ]] || mount -o remount,bind,ro "$view$target"
      ;;
    *) echo "run_root.sh: expected --env, --mount or -- instead of $1" >&2; exit 2 ;;
  esac
  shift 2
done
shift
mount -o remount,bind,ro "$view"
exec env -i "${environment[@]}" "$(command -v setpriv)" --no-new-privs \
  "$(command -v chroot)" --userspec="$user" --groups= "$view" "$@"
