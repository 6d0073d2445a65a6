#!/usr/bin/env bash
# Builds the images where no container engine runs, and tries them: buildah (chroot isolation, vfs) builds docker/Dockerfile
# on a base that debootstrap makes; then contents, sizes and configuration are checked, and the server's image is run on a
# read-only root and driven with the client's.
#
#   docker/test-image.sh [--work FOLDER] [--jobs N] [--skip-tests]
#
#   --work FOLDER  keeps the base, the compiler's cache and the images, which a second run uses (default: build/image)
#   --jobs N       compilations at the same time (default: one for each processor)
#   --skip-tests   builds the images without running the project's tests
#
# As root. Needs: buildah debootstrap jq curl iproute2 procps python3, and dataset-fashion-mnist. 12 GB of disk; an hour or more on two
# cores, a fraction of it the second time.
set -euo pipefail

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
work=$repository/build/image
jobs=
tests=1
while [[ $# -gt 0 ]]; do
  case $1 in
    --work) work=${2:?--work needs a folder}; shift 2 ;;
    --jobs) jobs=${2:?--jobs needs a number}; shift 2 ;;
    --skip-tests) tests=0; shift ;;
    *) echo "test-image.sh: what is $1? See the head of $0" >&2; exit 2 ;;
  esac
done

fail() {
  printf 'test-image.sh: %s\n' "$*" >&2
  exit 1
}

[[ $(id -u) == 0 ]] || fail "must run as root"
for tool in buildah debootstrap jq curl ip pgrep python3; do
  command -v "$tool" >/dev/null || fail "$tool is missing: apt-get install buildah debootstrap jq curl iproute2 procps python3"
done
mkdir -p "$work/tmp"
work=$(cd "$work" && pwd)
# buildah keeps the caches of RUN --mount=type=cache below TMPDIR.
export TMPDIR=$work/tmp
base=$work/base-trixie

image() { buildah --root "$work/storage" --runroot "$work/run" --storage-driver vfs "$@"; }

containers=()
cleanup() {
  local code=$?
  trap - EXIT
  for container in "${containers[@]}"; do image rm "$container" >/dev/null 2>&1 || true; done
  exit "$code"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# The mirror that this machine's packages come from, or Debian's.
mirror=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' 'Label: Debian' 2>/dev/null | head -n 1)
mirror=${mirror:-http://deb.debian.org/debian}

if [[ ! -e $base/.complete ]]; then
  echo "== debootstrap from $mirror"
  rm -rf "$base"
  debootstrap --variant=minbase trixie "$base" "$mirror" >"$work/debootstrap.log" 2>&1 || fail "debootstrap: see $work/debootstrap.log"
  rm -rf "$base"/var/cache/apt/archives/*.deb "$base"/var/lib/apt/lists/*
  # As in Debian's own image: nothing here must survive a power failure.
  echo force-unsafe-io >"$base/etc/dpkg/dpkg.cfg.d/docker-apt-speedup"
  touch "$base/.complete"
fi
if ! image inspect localhost/debian:trixie >/dev/null 2>&1; then
  container=$(image from scratch)
  containers+=("$container")
  image add --quiet "$container" "$base" / >/dev/null
  image commit --quiet "$container" localhost/debian:trixie >/dev/null
fi

version=$(sed -n 's/^project(laplaced VERSION \([0-9.]*\).*/\1/p' "$repository/CMakeLists.txt")
# Sources without a history have no revision.
revision=$(git -C "$repository" rev-parse HEAD 2>/dev/null || echo unknown)
# build TARGET RUN_TESTS
build() {
  echo "== building $1"
  # Docker's format, because OCI's has no health check.
  image bud --isolation chroot --format docker --pull-never --file "$repository/docker/Dockerfile" --target "$1" \
    --build-arg BASE=localhost/debian:trixie --build-arg JOBS="$jobs" --build-arg RUN_TESTS="$2" \
    --build-arg VERSION="$version" --build-arg REVISION="$revision" --build-arg SOURCE=https://laplaced.example \
    --tag "localhost/laplaced-$1" "$repository" >"$work/build-$1.log" 2>&1 ||
    { tail -n 40 "$work/build-$1.log" >&2; fail "the build of target $1 failed: $work/build-$1.log"; }
}
build server "$tests"
# The same programs again, from the compiler's cache; their tests have run.
build client 0

# check TARGET MEGABYTES PROGRAM...: contents, size and what both images declare. Leaves TARGET_root and $work/TARGET.json.
check() {
  local target=$1 limit=$2 config=$work/$1.json container root size
  shift 2
  container=$(image from --pull-never "localhost/laplaced-$target")
  containers+=("$container")
  root=$(image mount "$container")
  size=$(du -s --apparent-size --block-size=1 "$root" | cut -f1)
  printf '%s: %d.%d MB in %d files\n' "$target" $((size / 1000000)) $((size / 100000 % 10)) "$(find "$root" -type f | wc -l)"
  ((size < limit * 1000000)) || fail "$target holds $size bytes, expected less than $limit MB"
  "$repository/docker/image/check_root.py" "$root" "$@" || fail "the contents of $target are not as they should be"
  image inspect --type image "localhost/laplaced-$target" | jq .Docker.config >"$config"
  # expect JQ_FILTER: true of the configuration
  local expectations=(
    '.User == "65532:0"'
    '.Entrypoint | length == 1 and (.[0] | startswith("/usr/bin/laplace"))'
    ".Labels[\"org.opencontainers.image.version\"] == \"$version\""
    ".Labels[\"org.opencontainers.image.revision\"] == \"$revision\""
    '.Labels["org.opencontainers.image.source"] == "https://laplaced.example"'
    '.Labels["org.opencontainers.image.licenses"] == "Apache-2.0"'
  )
  [[ $target != server ]] || expectations+=(
    '.StopSignal == "SIGTERM"'
    '.Healthcheck.Test == ["CMD", "/usr/bin/laplace", "health", "--timeout", "4"]'
    '.Volumes | keys == ["/var/lib/laplaced"]'
    '.ExposedPorts | keys == ["8033/tcp", "8034/tcp"]'
    '.Env | index("OMP_WAIT_POLICY=PASSIVE")'
    '.Env | index("LAPLACED_LISTEN=0.0.0.0:8033")'
  )
  for expectation in "${expectations[@]}"; do
    jq --exit-status "$expectation" "$config" >/dev/null || fail "$target: expected $expectation of $config"
  done
  printf -v "${target}_root" '%s' "$root"
}
check server 900 laplaced laplace laplace-fit
check client 80 laplace
said=$("$repository/docker/image/run_root.sh" "$server_root" 65532:0 -- /usr/bin/laplaced --version)
[[ $said == *"$version"* ]] || fail "laplaced --version says $said, the label $version"

"$repository/docker/image/try_image.sh" "$server_root" "$client_root" "$work/server.json" "$repository"
