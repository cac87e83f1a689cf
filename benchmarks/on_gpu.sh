#!/usr/bin/env bash
# Run what only a GPU can show: its tests, the speeds, and the recipes of CIFAR-10 with their certificates.
#
#     make .venv/dev && benchmarks/on_gpu.sh ROOT OUT [REFERENCE]
#
# ROOT is the directory of CIFAR-10, REFERENCE a checkout of the original repository to compare speeds with. Logs, runs
# and certificates are written to OUT. The shortest steps come first and the published recipe, which takes days, last.
# The same command continues after an interruption. A step that fails does not stop the others; its name is printed at
# the end, and the exit code is 1.
set -uo pipefail
if [ $# -lt 2 ]; then echo "usage: benchmarks/on_gpu.sh ROOT OUT [REFERENCE]" >&2; exit 2; fi
root=$1 out=$2 bin=${BIN:-.venv/bin} reference=()
if [ $# -gt 2 ]; then reference=(--reference "$3"); fi
mkdir -p "$out" || exit 2
failed=()

once() {  # once NAME COMMAND...: run a command unless it was finished before
    local name=$1 && shift
    if [ -e "$out/$name.done" ]; then return; fi
    echo "== $name"
    if "$@" 2>&1 | tee "$out/$name.log"; then touch "$out/$name.done"; else failed+=("$name"); fi
}

recipe() {  # train by a recipe of CIFAR-10, and certify every 20th test image
    "$bin/macer" train --recipe "cifar10/$1" --root "$root" --out "$out/$1" &&
        "$bin/macer" certify "$out/$1" --skip 20 --spend for-table --batch-size 4000
}

once tests "$bin/pytest" --dist=worksteal tests/test_gpu_*.py
once speed-of-certification "$bin/python" benchmarks/certify.py "${reference[@]}"
once speed-of-training "$bin/python" benchmarks/train.py "${reference[@]}"
once cost-of-methods "$bin/python" benchmarks/methods.py
for method in fast fast-macer fast-cohen; do
    for sigma in 0.25 0.5 1; do once "recipe-$method-$sigma" recipe "$method-$sigma"; done
done
once recipe-macer-0.25 recipe macer-0.25
if [ ${#failed[@]} -gt 0 ]; then echo "failed: ${failed[*]}" >&2; exit 1; fi
