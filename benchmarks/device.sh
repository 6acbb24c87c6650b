#!/usr/bin/env bash
# Check and measure the kernels on a machine with a GPU and PyTorch, but without a network, within ten minutes:
#   benchmarks/device.sh OUT            writes everything that it measures to the folder OUT
#   benchmarks/device.sh OUT --dry      tiny sizes, on the CPU where there is no GPU
# What such a machine lacks is carried as wheels in the folder .whl of the repository; on a machine with a network, for
# the Python 3.12 of the other one:
#   pip download --no-deps --only-binary=:all: --python-version 3.12 --implementation cp -d .whl \
#       --platform manylinux_2_28_x86_64 --platform manylinux2014_x86_64 --platform manylinux1_x86_64 \
#       dgl==2.1.0 omegaconf==2.4.0 beartype==0.23.1 jaxtyping==0.3.7
set -euo pipefail
out=$(realpath -m "${1:?give a folder for what is measured, such as runs/device}")
shift
cd "$(dirname "$0")/.."
mkdir -p "$out"
began=$SECONDS
left() { echo $((560 - SECONDS + began)); }
export PYTHONPATH=$PWD PYTHONUNBUFFERED=1 PYTHONWARNINGS=ignore
if compgen -G ".whl/*.whl" > /dev/null; then
    site=$(mktemp -d)
    trap 'rm -rf "$site"' EXIT
    python3 -m pip install -q --no-index --no-deps --no-compile --target "$site" .whl/*.whl
    export PYTHONPATH=$PWD:$site
fi
command -v nvidia-smi > /dev/null && nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader
python3 -m relgrounding env || true
status=0
timeout "$(left)" python3 -m benchmarks.device --out "$out" --budget $(($(left) - 120)) "$@" 2>&1 | tee "$out/log.txt" || status=1
if command -v compute-sanitizer > /dev/null && [ "$(left)" -gt 60 ]; then
    echo "== memory checker"
    PYTORCH_NO_CUDA_MEMORY_CACHING=1 timeout 60 compute-sanitizer --tool memcheck --error-exitcode 3 \
        python3 -m benchmarks.device --dry --only offsets steps --out "$out/memcheck" 2>&1 | tail -5 || status=1
fi
echo "ended after $((SECONDS - began)) s, status $status; everything is in $out"
exit $status
