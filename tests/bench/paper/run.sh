#!/bin/sh
# The paper's experiments, one command each: run.sh WHAT [options]. README.md beside it says what each is and how long it takes.
#
#   curvature          C1 to C7 on the demo network (paper_curvature)
#   corruption         C8 and C9 on the demo network (under_corruption.py)
#   curvature-resnet   the same on ResNet-20 and CIFAR-10; needs RESNET20 and CIFAR
#   corruption-resnet
#   all-cnn-c          trains ALL-CNN-C (train_all_cnn_c.py); needs CIFAR
#   report             figures and report.md from what is in OUT
#   imagenet           what a run on ImageNet would take
#   quick              a small version of curvature, corruption and report: four minutes on two cores
#   all                curvature, corruption and report; ResNet-20 and ALL-CNN-C too where RESNET20 and CIFAR are set
#
# Options after WHAT go to its program. From the environment: OUT (default run/paper), BUILD (build/release), CIFAR (folder by
# tests/bench/fetch_cifar10.py), RESNET20 (folder with model.pt and model.json), EARLY (its early checkpoint, for C7).
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../../.." && pwd)
BUILD=${BUILD:-$root/build/release}
OUT=${OUT:-$root/run/paper}
PYTHON=/usr/bin/python3
fashion=/usr/share/datasets/fashion-mnist
export PYTHONDONTWRITEBYTECODE=1 OMP_WAIT_POLICY=PASSIVE

die() { echo "run.sh: $*" >&2; exit 1; }
need() { eval "value=\${$1:-}"; [ -n "$value" ] || die "set $1: $2"; [ -e "$value" ] || die "$1=$value: not there"; }
need_cifar() { need CIFAR "the folder that tests/bench/fetch_cifar10.py wrote"; }
need_resnet() { need RESNET20 "a folder with model.pt and model.json of a ResNet-20 for CIFAR-10"; need_cifar; }
program() { [ -x "$1" ] || die "$1: not built; run \`make build\`"; }

curvature() {
  program "$BUILD/tests/bench/paper_curvature"
  [ -d $fashion ] || die "$fashion: not there; install Debian's package dataset-fashion-mnist"
  "$BUILD/tests/bench/paper_curvature" --model "$root/tests/data/fashion_cnn" --data $fashion/train-images-idx3-ubyte.gz \
      --labels $fashion/train-labels-idx1-ubyte.gz --out "$OUT/fashion_cnn" "$@"
}

curvature_resnet() {
  need_resnet
  program "$BUILD/tests/bench/paper_curvature"
  set -- --model "$RESNET20" --data "$CIFAR/train_images.npy" --labels "$CIFAR/train_labels.npy" --name resnet20 --out "$OUT/resnet20" "$@"
  # Without an early checkpoint, nothing can be said of conjugate gradients on a network with batch norm.
  if [ -n "${EARLY:-}" ]; then set -- "$@" --early "$EARLY"; else set -- "$@" --parts spectra; fi
  "$BUILD/tests/bench/paper_curvature" "$@"
}

corruption() {
  program "$BUILD/server/app/laplaced"
  (cd "$root/client/python" && $PYTHON setup.py descriptors)
  $PYTHON "$here/under_corruption.py" --server-binary "$BUILD/server/app/laplaced" --out "$OUT/fashion_cnn" "$@"
}

corruption_resnet() {
  need_resnet
  program "$BUILD/server/app/laplaced"
  (cd "$root/client/python" && $PYTHON setup.py descriptors)
  $PYTHON "$here/under_corruption.py" --network resnet20 --model "$RESNET20" --cifar "$CIFAR" --server-binary "$BUILD/server/app/laplaced" \
      --out "$OUT/resnet20" "$@"
}

all_cnn_c() {
  need_cifar
  (cd "$root/client/python" && $PYTHON setup.py descriptors)
  $PYTHON "$here/train_all_cnn_c.py" --cifar "$CIFAR" --out "$OUT/training/B" "$@"
}

report() { $PYTHON "$here/report.py" "$OUT"; }

[ $# -ge 1 ] || { sed -n '2,/^set -eu/s/^#\( \|$\)//p' "$0" >&2; exit 2; }
what=$1
shift
mkdir -p "$OUT"
case $what in
  curvature) curvature "$@" ;;
  curvature-resnet) curvature_resnet "$@" ;;
  corruption) corruption "$@" ;;
  corruption-resnet) corruption_resnet "$@" ;;
  all-cnn-c) all_cnn_c "$@" ;;
  report) report ;;
  imagenet) $PYTHON "$here/imagenet.py" ;;
  quick)
    OUT=$OUT/quick
    mkdir -p "$OUT"
    curvature --quick
    corruption --seeds 3 --images 2 --severities 1,3,5 --rank 10 --b1 64 --b2 256 --validation 100 --train-rows 2000
    report ;;
  all)
    curvature
    corruption
    if [ -n "${RESNET20:-}" ] && [ -n "${CIFAR:-}" ]; then
      curvature_resnet
      corruption_resnet
    fi
    if [ -n "${CIFAR:-}" ]; then all_cnn_c; fi
    report ;;
  *) die "there is no '$what'; run it without arguments for a list" ;;
esac
