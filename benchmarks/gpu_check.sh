#!/usr/bin/env bash
# Checks the CUDA operators on a machine with an NVIDIA GPU: builds autopatch, runs its CUDA tests,
# times nearest_neighbors beside torch. Needs python with torch, numpy, pytest, pybind11,
# scikit-build-core, cmake and ninja, and nvcc; no network. Nothing is installed: the build goes to
# a temporary folder.
#
#   benchmarks/gpu_check.sh                  # writes benchmarks/results/cuda_<GPU>.md
#   PYTHON=python3.12 OUT=/some/folder benchmarks/gpu_check.sh
#
# A part that fails does not keep the next from running; the exit code is 0 if all passed.
set -u
cd "$(dirname "$0")/.." || exit 1

python=${PYTHON:-python3}
results=${OUT:-benchmarks/results}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export PYTHONPATH="$work/site" PYTHONDONTWRITEBYTECODE=1
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
summary=()
status=0

part() {
  local name=$1 seconds=$2 code=0
  shift 2
  echo "== $name"
  local start=$SECONDS
  timeout --kill-after=10 "$seconds" "$@" || code=$?
  case $code in
    0) summary+=("$name: passed in $((SECONDS - start)) s") ;;
    124 | 137) summary+=("$name: FAILED, stopped after $seconds s") ;;
    *) summary+=("$name: FAILED with exit code $code") ;;
  esac
  [ "$code" -eq 0 ] || status=1
  return "$code"
}

part build 300 "$python" -m pip install --quiet --no-index --no-build-isolation --no-deps \
  --target "$work/site" -C build-dir="$work/build" -C cmake.define.AUTOPATCH_CUDA=ON .

if "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
  part tests 180 "$python" -m pytest tests/kernels -k cuda -q -p no:cacheprovider
  part table 100 "$python" benchmarks/cuda_table.py "$results" > "$work/table"
else
  summary+=("tests, table: FAILED, not run, since torch finds no usable GPU")
  status=1
fi

echo "== summary"
printf '%s\n' "${summary[@]}"
[ -f "$work/table" ] && cat "$work/table"
exit "$status"
