#!/usr/bin/env bash
# Builds the GPU suite as a bundle that runs where there is a GPU and nothing of this repository:
# programs with the libraries they need beside them, fixtures, the PyTorch peer, and `run.sh`.
# There, a driver and CUDA's libraries are enough: the system's, or Python's nvidia packages.
#
#   scripts/gpu_suite.sh [--dry-run] [--build FOLDER] [--no-build] [--out FILE.tar.xz]
#   tar xJf gpu_suite.tar.xz && gpu_suite/run.sh [correctness|sanitizer|performance]
#
# --dry-run shows what would be built, bundled and run. --no-build takes the programs in --build as
# they are. Fixtures and the peer come from TRIREME_SHARED (default: ../shared).
set -euo pipefail
cd "$(dirname "$0")/.."
shared=$(realpath -m "${TRIREME_SHARED:-../shared}")
build=build-gpu-suite
out=gpu_suite.tar.xz
dry=no
make=yes
limit_mb=60
while [ $# -gt 0 ]; do
  case $1 in
    --dry-run) dry=yes ;;
    --no-build) make=no ;;
    --build) build=$2 && shift ;;
    --out) out=$2 && shift ;;
    *) echo "gpu_suite.sh: $1: expected --dry-run, --no-build, --build FOLDER or --out FILE" >&2 && exit 2 ;;
  esac
  shift
done

# Programs of the bundle: target, and where the build leaves it. The first must be there.
programs="trireme:trireme
cuda_kernels_gpu_test:tests/cuda_kernels/cuda_kernels_gpu_test
cuda_training_gpu_test:tests/cuda_training/cuda_training_gpu_test
cuda_fixtures_gpu_test:tests/cuda_fixtures/cuda_fixtures_gpu_test
cuda_inference_gpu_test:tests/cuda_inference/cuda_inference_gpu_test
cluster_comm_nccl_gpu_test:tests/cluster_comm_gpu/cluster_comm_nccl_gpu_test
nccl_training_gpu_test:tests/cuda_training/nccl_training_gpu_test
train_benchmark:benchmarks/train_benchmark
kernels_benchmark:benchmarks/kernels_benchmark"
configure=(cmake -S . -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DTRIREME_ARCH=x86-64-v3
  -DTRIREME_CUDA=ON -DTRIREME_MPI=OFF -DTRIREME_TESTS=ON -DTRIREME_BENCHMARKS=ON)
# Of the system on every Linux, or the driver's and CUDA's own.
not_bundled='^(linux-vdso|ld-linux.*|lib(c|m|dl|rt|pthread|resolv)\.so.*|libcuda\..*|lib(cublas|cublasLt|cudnn|nccl|cudart|nvrtc).*)'

if [ $dry = yes ]; then
  echo "build:   ${configure[*]}"
  echo "bundle:  $out, at most $limit_mb MB, of"
  while IFS=: read -r target path; do echo "         bin/$target ($build/$path)"; done <<<"$programs"
  echo "         lib/: what they link, less the system's and CUDA's libraries"
  echo "         fixtures/ ($shared/fixtures), peers/ ($shared/peers), examples/, run.sh,"
  echo "         data/weights_stories260k/, data/tinyshakespeare/ ($shared/data)"
  scripts/gpu_suite_run.sh --dry-run
  exit 0
fi

if [ $make = yes ]; then
  "${configure[@]}"
  available=$(ninja -C "$build" -t targets all | sed -n 's/^\([a-z_]*\): phony$/\1/p')
  targets=()
  while IFS=: read -r target path; do
    if grep -qx "$target" <<<"$available"; then targets+=("$target"); fi
  done <<<"$programs"
  ninja -C "$build" "${targets[@]}"
fi

staging=$(mktemp -d)
trap 'rm -rf "$staging"' EXIT
bundle=$staging/gpu_suite
mkdir -p "$bundle"/{bin,lib}
while IFS=: read -r target path; do
  if [ -x "$build/$path" ]; then
    install -s "$build/$path" "$bundle/bin/$target"
  else
    echo "not in the bundle: $target (no $build/$path)" >&2
  fi
done <<<"$programs"
[ -x "$bundle/bin/trireme" ] || { echo "gpu_suite.sh: no $build/trireme" >&2 && exit 1; }
for program in "$bundle"/bin/*; do
  ldd "$program" | awk '$2 == "=>" && $3 ~ /^\// {print $1, $3}'
done | sort -u | while read -r name file; do
  [[ $name =~ $not_bundled ]] || install -s -m 644 "$(realpath "$file")" "$bundle/lib/$name"
done
cp -r "$shared/fixtures" "$shared/peers" examples "$bundle/"
mkdir "$bundle/data"
cp -r "$shared"/data/{weights_stories260k,tinyshakespeare} "$bundle/data/"
cp scripts/gpu_suite_run.sh "$bundle/run.sh"
{ git describe --always --dirty 2>/dev/null || echo unknown; } >"$bundle/commit"
tar -C "$staging" -I "xz -6 -T0" -cf "$out" gpu_suite
bytes=$(stat -c %s "$out")
echo "$out: $((bytes / 1000000)) MB packed, $(ls "$bundle/bin" | wc -l) programs, $(ls "$bundle/lib" | wc -l) libraries"
if [ "$bytes" -gt $((limit_mb * 1000000)) ]; then
  echo "gpu_suite.sh: the bundle is over $limit_mb MB" >&2
  exit 1
fi
