#!/usr/bin/env bash
# Tiny Shakespeare beside PyTorch: the same initial weights and batches, 500 steps, validation losses
# side by side. Needs TRIREME_SHARED (data and the peer's script) and a python with torch and
# transformers.
#
#   TRIREME_SHARED=... PYTHON=.venv/bin/python benchmarks/tiny_shakespeare_pytorch.sh build/trireme FOLDER
set -euo pipefail
trireme=$(realpath "$1")
folder=$2
python=${PYTHON:-python3}
peer=$TRIREME_SHARED/peers/pytorch_train.py
mkdir -p "$folder"
cd "$folder"
steps=500

"$trireme" tokenizer train "$TRIREME_SHARED/data/tinyshakespeare/input.txt" --vocab-size 1024 \
  --out tokenizer.json
"$trireme" pack "$TRIREME_SHARED/data/tinyshakespeare/input.txt" --tokenizer tokenizer.json \
  --out shakespeare --validation 0.1
cat > config.json <<'END'
{"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 1024,
 "hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 4, "num_attention_heads": 4,
 "num_key_value_heads": 2, "max_position_embeddings": 256, "rms_norm_eps": 1e-6,
 "rope_theta": 10000.0, "tie_word_embeddings": false, "bos_token_id": 0, "eos_token_id": 0}
END
"$python" "$peer" --config config.json --steps 0 --untimed 0 --save weights

common=(--batch 8 --length 128 --lr 1e-3 --warmup-steps 20 --cosine --final-lr-ratio 0.1
  --tokens shakespeare_train.bin --validation shakespeare_validation.bin
  --validation-every 50 --validation-batches 20)
for dtype in float32 bfloat16; do
  "$python" "$peer" --weights weights "${common[@]}" --untimed 0 --steps $steps --dtype $dtype \
    --log "pytorch_$dtype.jsonl" > "pytorch_$dtype.json"
  cat > "run_$dtype.yaml" <<END
run: {dir: run_$dtype, seed: 1}
model: {from: weights}
data:
  train: [{path: shakespeare_train}]
  validation: [{path: shakespeare_validation}]
  sequence_length: 128
  shuffle: false
batch: {sequences: 8, microbatch_sequences: 8}
optimizer: {name: adamw, lr: 1.0e-3, betas: [0.9, 0.95], eps: 1.0e-8, weight_decay: 0.1, clip_norm: 1.0}
lr_schedule: {name: cosine, warmup_steps: 20, steps: $steps, final_lr_ratio: 0.1}
precision: {compute: $dtype}
checkpoint: {every_steps: $steps, keep: 1}
validation: {every_steps: 50, batches: 20}
END
  rm -rf "run_$dtype"
  "$trireme" train "run_$dtype.yaml" 2> "run_$dtype.log"
  echo "$dtype: step, validation loss of PyTorch and of Trireme, difference"
  paste <(sed -n 's/.*"step": \([0-9]*\), "validation_loss": \([0-9.]*\).*/\1 \2/p' "pytorch_$dtype.jsonl") \
    <(sed -n 's/.*"step":\([0-9]*\),"validation_loss":\([0-9.]*\).*/\1 \2/p' "run_$dtype/metrics.jsonl") |
    awk '{ if ($1 != $3) { print "steps differ"; exit 1 }
           d = $4 - $2; if (d < 0) d = -d; if (d > worst) worst = d
           printf "%6d  %.5f  %.5f  %.5f\n", $1, $2, $4, d }
         END { printf "largest difference %.5f\n", worst }'
done
