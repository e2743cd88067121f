#!/usr/bin/env bash
# One training step of a preset beside PyTorch, in turns on otherwise idle cores: tokens a second and
# the share of each side's own matrix-product peak. Needs TRIREME_SHARED (the peer's script) and a
# python with torch and transformers.
#
#   TRIREME_SHARED=... PYTHON=... benchmarks/train_pytorch.sh build/benchmarks/train_benchmark [PRESET] [ROUNDS]
set -euo pipefail
benchmark=$1
preset=${2:-llama-30m}
rounds=${3:-3}
python=${PYTHON:-python3}
peer=$TRIREME_SHARED/peers/pytorch_train.py
for dtype in float32 bfloat16; do
  for ((round = 1; round <= rounds; ++round)); do
    "$benchmark" --preset "$preset" --batch 8 --length 256 --precision $dtype
    "$python" "$peer" --preset "$preset" --batch 8 --length 256 --dtype $dtype --compile
  done
  "$python" "$peer" --preset "$preset" --batch 8 --length 256 --dtype $dtype
done
