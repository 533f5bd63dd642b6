#!/usr/bin/env bash
# GreenBoost on a real GPU: one call runs the phases named, each bounded in time, and writes what it measured.
#
#   cargo xtask gpu-pack DIR             on the machine that has Rust; take DIR to the machine that has the GPU
#   bash DIR/gpu/run.sh [OPTIONS] PHASE...
#
# Phases:
#   build SRC    compile llama.cpp from the source folder SRC and pack its programs into the results
#   doctor       what `greenboost doctor --json` says of the machine
#   fixtures     the fixture programs against the real driver, spilling and forbidden to spill
#   toy          toy-llm: the same checksum under VRAM caps and with every RAM backing
#   discovery    llama-server --list-devices and a start without a model, killed at its first lines
#   fit          a model that fits: as fast as without us, to one percent, and the same tokens
#   dense        32B-shape dense model in 12 GiB: the same tokens, and how fast
#   moe          30B-A3B-shape MoE model in 8 GiB: the same tokens, and how fast
#   rivals       llama.cpp's own CPU offload, tuned to the same VRAM
#   table        everything in VRAM, llama.cpp's best offload and each of our strategies, side by side
#   predictions  what `greenboost plan` expects of the rows that `table` made
#   traces       what limits each of our strategies: when the link copied, what the GPU waited for
#   mapped       llama.cpp's default offload with and without host-copy prefetch, the model mapped from a folder on disk
#   page-cache   weights outside VRAM in the page cache of a model file on disk: loading, answers, speed
#   experts      a mixture whose most used experts are in VRAM: the same tokens, and how fast
#   all          doctor fixtures toy discovery fit dense moe
#
# Options:
#   --llama PATH     llama.cpp: a folder with llama-server, or what `build` packed (llama-cpp.tar.xz or its parts)
#   --results DIR    where results go (default: $OUT, else ./gpu-results)
#   --from FILE      results of an earlier call to go on from: what is in them is not measured again
#   --pack DIR       what gpu-pack made (default: the folder above this script)
#   --models DIR     where models are generated (default: /dev/shm/greenboost-models); needs 24 GiB, and 40 to keep two
#   --disk DIR       where `table`, `predictions`, `traces`, `mapped`, `page-cache` and `experts` have them (default: /var/tmp/greenboost-models): no path below /dev, whose
#                    files are not served in place of a mapping
#   --budget SECONDS time for the whole call (default: 570); what does not fit in it is left to the next call
#   --arch ARCH      CMAKE_CUDA_ARCHITECTURES for `build` (default: 90-real)
#   --self-test      run this script's own logic with stand-ins for the GPU and for llama.cpp
#
# Exit code: 0 all checks passed, 1 one failed, 2 wrong call, 3 time was up: call again with --from.
# It changes no setting of the card, loads no kernel module and allocates no managed memory.
set -euo pipefail
export PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
pack=$(dirname "$here")
results=${OUT:-./gpu-results}
models=/dev/shm/greenboost-models
disk=/var/tmp/greenboost-models
budget=570
arch=90-real
llama='' from='' source=''
phases=()

die() { echo "run.sh: $*" >&2; exit 2; }
usage() { sed -n '2,/^set -e/{/^set -e/d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"; }

while [ $# -gt 0 ]; do
    case $1 in
    --self-test) exec python3 "$here/self_test.py" ;;
    -h | --help) usage; exit 0 ;;
    --llama | --results | --from | --pack | --models | --disk | --budget | --arch)
        [ $# -ge 2 ] || die "$1 needs a value"
        declare "${1#--}=$2"; shift ;;
    build)
        [ $# -ge 2 ] || die "build needs the folder of llama.cpp's source"
        phases+=(build); source=$2; shift ;;
    all) phases+=(doctor fixtures toy discovery fit dense moe) ;;
    doctor | fixtures | toy | discovery | fit | dense | moe | rivals | table | predictions | traces | mapped | page-cache | experts) phases+=("$1") ;;
    *) die "unknown: $1 (see --help)" ;;
    esac
    shift
done
[ ${#phases[@]} -gt 0 ] || { usage; exit 2; }
deadline=$(($(date +%s) + budget))
mkdir -p "$results"
results=$(cd "$results" && pwd)

build_llama() {
    [ -f "$source/CMakeLists.txt" ] || die "no CMakeLists.txt in $source"
    local out=${TMPDIR:-/tmp}/greenboost-llama-build
    # Every variant of the CPU backend: the one for this machine's own processor is loaded, which the rivals' CPU offload
    # deserves. GGML_NATIVE would be refused beside GGML_BACKEND_DL.
    cmake -S "$source" -B "$out" -G Ninja -DCMAKE_BUILD_TYPE=Release -DGGML_CUDA=ON \
        -DCMAKE_CUDA_ARCHITECTURES="$arch" -DBUILD_SHARED_LIBS=ON -DGGML_BACKEND_DL=ON -DGGML_NATIVE=OFF \
        -DGGML_CPU_ALL_VARIANTS=ON \
        -DGGML_CCACHE=OFF -DGGML_CUDA_NCCL=OFF -DLLAMA_CURL=OFF -DLLAMA_OPENSSL=OFF \
        -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_APP=OFF -DLLAMA_BUILD_UI=OFF \
        -DLLAMA_USE_PREBUILT_UI=OFF >"$results/llama-build.log" 2>&1 || {
        tail -30 "$results/llama-build.log"; return 1; }
    timeout $((deadline - $(date +%s) - 20)) \
        cmake --build "$out" --target llama-server llama-bench ggml-cuda ggml \
        >>"$results/llama-build.log" 2>&1 || { tail -30 "$results/llama-build.log"; return 1; }
    llama=$out/bin
    # In pieces, for places that limit the size of a file: `cat llama-cpp.tar.xz.part* | tar xJ`.
    rm -f "$results"/llama-cpp.tar.xz.part*
    tar -C "$out/bin" -c . | xz -T0 -3 | split -b 15M -d - "$results/llama-cpp.tar.xz.part"
    ls -l "$results"/llama-cpp.tar.xz.part*
}

unpack_llama() {
    [ -z "$llama" ] || [ -d "$llama" ] && return
    local to=${TMPDIR:-/tmp}/greenboost-llama
    mkdir -p "$to"
    # A packed build, whole or in the parts that `build` wrote.
    if [ -f "$llama" ]; then tar -C "$to" -xJf "$llama"; else cat "$llama"* | tar -C "$to" -xJ; fi ||
        die "cannot unpack $llama"
    llama=$to
}

if [ "${phases[0]}" = build ]; then
    build_llama || { echo "FAIL build: see $results/llama-build.log" >&2; exit 1; }
    phases=("${phases[@]:1}")
    [ ${#phases[@]} -gt 0 ] || exit 0
fi
unpack_llama
if [ -n "$llama" ]; then
    llama=$(cd "$llama" && pwd)
    # A packed build has been moved away from where its programs look for their libraries.
    export LD_LIBRARY_PATH="$llama${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
fi
exec python3 "$here/lab.py" --pack "$pack" --llama "$llama" --results "$results" --from "$from" --models "$models" \
    --disk "$disk" --deadline "$deadline" "${phases[@]}"
