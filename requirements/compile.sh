#!/usr/bin/env bash
# Rewrites the *.lock files from the *.in files: one set of versions for all of them. Each package has its hashes; index
# addresses and paths of this machine are left out, so that the files are the same wherever they are written. Needs uv on
# PATH. Pass --upgrade to take newer versions.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

locks=$PWD
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp ./*.in overrides.txt "$work"
cat ./*.lock >"$work/versions.txt" 2>/dev/null || true
cd "$work" # annotations name files as uv is given them

compile() {
    # One version for every Python, as only that one is tested.
    uv pip compile --quiet --universal --python-version 3.11 --fork-strategy fewest --no-emit-index-url \
        --custom-compile-command requirements/compile.sh "$@"
}
lock() { # name of the lock file, arguments
    local name=$1
    shift
    compile --generate-hashes "$@" --output-file "$locks/$name.lock"
}

compile --no-annotate --override overrides.txt "$@" \
    service.in separation.in onnxruntime-cpu.in dev.in http3.in --output-file versions.txt
# onnxruntime-gpu has to be the version of onnxruntime.
sed -n 's/^onnxruntime==\([^ ]*\).*/onnxruntime-gpu==\1/p' versions.txt >>onnxruntime-gpu.in

# torch brings CUDA along only on some machines, so what comes with it is locked apart.
grep -E '^torch(vision)?$' separation.in >torch.in
lock torch-cuda -c versions.txt torch.in
with_torch=$(sed -n 's/^\(torch\|torchvision\|triton\|nvidia-[a-z0-9-]*\|cuda-[a-z0-9-]*\)==.*/--no-emit-package=\1/p' \
    "$locks/torch-cuda.lock")

# The CPU builds of the same versions are on PyTorch's own index only, and so are their hashes. Where the index cannot be
# reached, there is no such lock, and the builds with CUDA are installed: never a file without a hash.
grep -oE '^torch(vision)?==[^ ]*' "$locks/torch-cuda.lock" >torch-cpu.in
if UV_HTTP_TIMEOUT=5 UV_HTTP_RETRIES=0 compile --generate-hashes --no-deps --torch-backend cpu torch-cpu.in \
    --output-file torch-cpu.lock 2>torch-cpu.log; then
    mv torch-cpu.lock "$locks"
elif [ -f "$locks/torch-cpu.lock" ] &&
    [ "$(sed -n 's/^\(torch[a-z]*==[^ +]*\).*/\1/p' "$locks/torch-cpu.lock" | sort -u)" = "$(sort torch-cpu.in)" ]; then
    echo "PyTorch's index is unavailable: torch-cpu.lock stays, its versions are the wanted ones." >&2
else
    rm -f "$locks/torch-cpu.lock"
    echo "PyTorch's index is unavailable: without torch-cpu.lock, the builds with CUDA are installed everywhere." >&2
fi

lock service -c versions.txt service.in
# shellcheck disable=SC2086
lock separation --override overrides.txt -c versions.txt separation.in $with_torch
lock onnxruntime-cpu -c versions.txt onnxruntime-cpu.in
cat "$locks/torch-cuda.lock" >>versions.txt
lock onnxruntime-gpu -c versions.txt onnxruntime-gpu.in
# shellcheck disable=SC2086
lock dev -c versions.txt dev.in $with_torch
lock http3 -c versions.txt http3.in
for alone in bench java uv; do
    lock $alone $alone.in
done
