#!/usr/bin/env bash
# Rewrites the *.lock files from the *.in files: one set of versions for all of them, with hashes, without index
# addresses. Needs uv on PATH. Pass --upgrade to take newer versions.
set -euo pipefail
cd "$(dirname "$0")"

compile() { uv pip compile --quiet --universal --python-version 3.11 --no-emit-index-url --custom-compile-command requirements/compile.sh "$@"; }

all=$(mktemp)
trap 'rm -f "$all"' EXIT
cat ./*.lock >"$all" 2>/dev/null || true
compile --no-annotate --override overrides.txt "$@" \
    service.in separation.in onnxruntime-cpu.in dev.in http3.in --output-file "$all"
# onnxruntime-gpu has to be the version of onnxruntime.
version=$(sed -n 's/^onnxruntime==\([^ ]*\).*/\1/p' "$all")

# torch brings CUDA along only on some machines, so what comes with it is locked apart.
compile --generate-hashes -c "$all" <(grep -E '^torch(vision)?$' separation.in) --output-file torch-cuda.lock
with_torch=$(sed -n 's/^\(torch\|torchvision\|triton\|nvidia-[a-z0-9-]*\|cuda-[a-z0-9-]*\)==.*/--no-emit-package=\1/p' torch-cuda.lock)
{
    echo "# CPU builds of the versions in torch-cuda.lock, from PyTorch's own index: other files, hence no hashes."
    grep -oE '^torch(vision)?==[^ ]*' torch-cuda.lock
} >torch-cpu.lock

compile --generate-hashes -c "$all" service.in --output-file service.lock
# shellcheck disable=SC2086
compile --generate-hashes --override overrides.txt -c "$all" separation.in $with_torch --output-file separation.lock
compile --generate-hashes -c "$all" onnxruntime-cpu.in --output-file onnxruntime-cpu.lock
compile --generate-hashes -c "$all" -c torch-cuda.lock onnxruntime-gpu.in <(echo "onnxruntime-gpu==$version") \
    --output-file onnxruntime-gpu.lock
# shellcheck disable=SC2086
compile --generate-hashes -c "$all" dev.in $with_torch --output-file dev.lock
compile --generate-hashes -c "$all" http3.in --output-file http3.lock
compile --generate-hashes bench.in --output-file bench.lock
compile --generate-hashes uv.in --output-file uv.lock
