#!/usr/bin/env bash
# Checks the CUDA code on a machine with an NVIDIA GPU: builds autopatch for this GPU, runs all CUDA
# tests, some of them again under compute-sanitizer, runs the benchmarks, and writes the table of
# results. Needs nvcc and python with torch, numpy, pytest, pytest-benchmark, pybind11,
# scikit-build-core, cmake and ninja; whole detectors also need timm and scipy. No network is
# needed. Nothing is installed: the build goes to a temporary folder.
#
#   benchmarks/gpu_check.sh                  # writes benchmarks/results/cuda_<GPU>.md
#   PYTHON=python3.12 OUT=/some/folder benchmarks/gpu_check.sh
#
# Takes less than ten minutes. Every part has its own time limit, and the next parts run even if one
# fails. The exit code is 0 if all passed.
set -u
cd "$(dirname "$0")/.." || exit 1

python=${PYTHON:-python3}
results=${OUT:-benchmarks/results}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export PYTHONPATH="$work/site" PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
summary=()
status=0

part() {
  local name=$1 seconds=$2 code=0
  shift 2
  echo "== $name"
  local start=$SECONDS
  timeout --kill-after=5 "$seconds" "$@" || code=$?
  case $code in
    0) summary+=("$name: passed in $((SECONDS - start)) s") ;;
    124 | 137) summary+=("$name: FAILED, stopped after $seconds s") ;;
    *) summary+=("$name: FAILED with exit code $code after $((SECONDS - start)) s") ;;
  esac
  [ "$code" -eq 0 ] || status=1
  return "$code"
}

part build 180 "$python" -m pip install --quiet --no-index --no-build-isolation --no-deps \
  --target "$work/site" -C build-dir="$work/build" -C cmake.define.AUTOPATCH_CUDA=ON .

if "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
  part tests 120 "$python" -m pytest tests/kernels tests/detector -k cuda -q -p no:cacheprovider
  if "$python" -c 'import optuna, pymoo' 2> /dev/null; then
    part "tests of the search" 60 "$python" -m pytest tests/search/test_candidates.py -k cuda -q \
      -p no:cacheprovider
  else
    summary+=("tests of the search: not run, since pymoo or optuna is not installed")
  fi
  # Check only autopatch's kernels; torch's would take minutes.
  part sanitizer 60 compute-sanitizer --tool memcheck --kernel-regex kns=autopatch \
    --error-exitcode 9 "$python" -m pytest tests/kernels -k "cuda and sanitized" -q \
    -p no:cacheprovider
  for benchmark in aggregate_patches greedy_coreset nearest_neighbors pixel_metrics detector; do
    part "$benchmark" 45 "$python" benchmarks/cuda_table.py measure "$benchmark" "$work/rows"
  done
  part table 20 "$python" benchmarks/cuda_table.py write "$work/rows" "$results"
else
  summary+=("tests, benchmarks: FAILED, not run, since torch finds no usable GPU")
  status=1
fi

echo "== summary"
printf '%s\n' "${summary[@]}"
exit "$status"
