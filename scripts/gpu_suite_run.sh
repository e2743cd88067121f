#!/usr/bin/env bash
# Runs the GPU suite from its bundle (scripts/gpu_suite.sh) and writes report.json and report.md.
#
#   run.sh [--dry-run] [--out FOLDER] [correctness] [sanitizer] [performance]
#
# Without names all three parts run. A part takes less than 8 minutes: what is not done by then is
# reported as cut off; the sanitizers share their part's time evenly. A step that cannot run here (no
# GPU, no compute-sanitizer, no PyTorch, a program that the bundle lacks) is reported as skipped, with
# the reason. Exit status: 0 when at least one step ran, none failed, and none of correctness and
# sanitizer was cut off.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
part_seconds=${TRIREME_PART_SECONDS:-470}
out=$PWD/gpu_suite_report
dry=no
parts=()
while [ $# -gt 0 ]; do
  case $1 in
    --dry-run) dry=yes ;;
    --out) out=$2 && shift ;;
    correctness | sanitizer | performance) parts+=("$1") ;;
    *) echo "run.sh: $1: expected --dry-run, --out FOLDER, correctness, sanitizer or performance" >&2 && exit 2 ;;
  esac
  shift
done
[ ${#parts[@]} -eq 0 ] && parts=(correctness sanitizer performance)

# part | name | what it needs | command. `needs`: programs of bin/, or sanitizer, torch, gpu, gpus2.
# The peer comes last: compiling takes it minutes, and what is cut off then is its own.
steps='correctness|kernels against the CPU reference|gpu cuda_kernels_gpu_test|cuda_kernels_gpu_test
correctness|attention, own kernels|gpu cuda_kernels_gpu_test|TRIREME_ATTENTION=own cuda_kernels_gpu_test --gtest_filter=*Attention*
correctness|attention in parts|gpu cuda_kernels_gpu_test|attention_in_parts
correctness|the fixtures of PyTorch|gpu cuda_fixtures_gpu_test|NVIDIA_TF32_OVERRIDE=0 cuda_fixtures_gpu_test
correctness|conformance over NCCL, ranks on one GPU|gpu cluster_comm_nccl_gpu_test|cluster_comm_nccl_gpu_test
correctness|training over NCCL, ranks on one GPU|gpu nccl_training_gpu_test|nccl_training_gpu_test
correctness|training runs of every layout|gpu cuda_training_gpu_test|cuda_training_gpu_test
correctness|decoding, scoring, generation|gpu cuda_inference_gpu_test|cuda_inference_gpu_test
correctness|two runs, the same bits|gpu trireme|rerun
correctness|two GPUs by NCCL, the bits of one|gpus2 trireme|two_gpus
correctness|the loss curve of the CPU|gpu trireme|curve
sanitizer|memcheck|gpu sanitizer cuda_kernels_gpu_test|sanitize memcheck cuda_kernels_gpu_test
sanitizer|memcheck of training|gpu sanitizer cuda_training_gpu_test|sanitize memcheck cuda_training_gpu_test
sanitizer|racecheck|gpu sanitizer cuda_kernels_gpu_test|sanitize racecheck cuda_kernels_gpu_test
sanitizer|initcheck|gpu sanitizer cuda_kernels_gpu_test|sanitize initcheck cuda_kernels_gpu_test
sanitizer|synccheck|gpu sanitizer cuda_kernels_gpu_test|sanitize synccheck cuda_kernels_gpu_test
performance|gpt2-124m, expected|trireme|expect gpt2-124m 32 1024
performance|gpt2-124m|gpu train_benchmark|timed gpt2-124m --batch 32 --length 1024
performance|gpt2-124m, attention with atomics|gpu train_benchmark|TRIREME_ATTENTION=fast timed gpt2-124m --batch 32 --length 1024
performance|gpt2-350m, expected|trireme|expect gpt2-350m 32 1024
performance|gpt2-350m|gpu train_benchmark|timed gpt2-350m --batch 32 --length 1024
performance|gpt2-774m, expected|trireme|expect gpt2-774m 16 1024
performance|gpt2-774m|gpu train_benchmark|timed gpt2-774m --batch 16 --length 1024
performance|gpt2-1558m, expected|trireme|expect gpt2-1558m 8 1024 4
performance|gpt2-1558m|gpu train_benchmark|timed gpt2-1558m --batch 8 --microbatches 4 --length 1024
performance|gpt2-1558m without masters|gpu train_benchmark|timed gpt2-1558m --batch 8 --microbatches 4 --length 1024 --master bfloat16
performance|the shape of Qwen2.5-1.5B, expected|trireme|expect "$qwen" 8 1024 4
performance|the shape of Qwen2.5-1.5B|gpu train_benchmark|timed "$qwen" --batch 8 --microbatches 4 --length 1024
performance|llama-2-7b, 4 layers, expected|trireme|expect "llama-2-7b, num_hidden_layers: 4" 2 4096
performance|llama-2-7b, 4 layers|gpu train_benchmark|timed "llama-2-7b, num_hidden_layers: 4" --batch 2 --length 4096
performance|kernels|gpu kernels_benchmark|kernels_benchmark --device=cuda --benchmark_format=json
performance|gpt2-124m, torch.compile|gpu torch|peer gpt2-124m 32
performance|gpt2-350m, torch.compile|gpu torch|peer gpt2-350m 32
performance|gpt2-774m, torch.compile|gpu torch|peer gpt2-774m 16
performance|gpt2-1558m, torch.compile|gpu torch|peer gpt2-1558m 8'

if [ $dry = yes ]; then
  echo "runs:    (run.sh; a part at most $part_seconds s)"
  for part in "${parts[@]}"; do
    while IFS='|' read -r in name needs command; do
      [ "$in" = "$part" ] && printf '         %-12s %-34s %s\n' "$part" "$name" "$command"
    done <<<"$steps"
  done
  echo "reports: report.json, report.md with device, driver, clocks, date, commit"
  exit 0
fi

mkdir -p "$out"
export PATH=$here/bin:$PATH TRIREME_SHARED=$here
libraries=$here/lib
callers_libraries=${LD_LIBRARY_PATH-}  # for PyTorch, which brings CUDA's
# CUDA's libraries of Python's nvidia packages, where the system has none.
python=${PYTHON:-python3}
if command -v "$python" >/dev/null; then
  for folder in $("$python" -c 'import nvidia; [print(p) for p in nvidia.__path__]' 2>/dev/null); do
    for lib in "$folder"/*/lib; do [ -d "$lib" ] && libraries=$libraries:$lib; done
  done
fi
with_libraries() { LD_LIBRARY_PATH=$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} "$@"; }

# A small run of so many steps on a real text.
small_run() { # DIR DEVICE STEPS [OPTIONS]
  if [ ! -f "$out/tokens_train.bin" ]; then
    local text=$here/data/tinyshakespeare/input.txt
    trireme tokenizer train "$text" --vocab-size 512 --out "$out/tokenizer.json" &&
      trireme pack "$text" --tokenizer "$out/tokenizer.json" --out "$out/tokens" --validation 0.05 || return
  fi
  rm -rf "$1"
  cat >"$1.yaml" <<YAML
run: {dir: $1, seed: 7}
model: {family: llama, vocab_size: 512, hidden_size: 128, intermediate_size: 352, num_hidden_layers: 4, num_attention_heads: 4, num_key_value_heads: 2}
data: {train: [{path: $out/tokens_train}], sequence_length: 128}
batch: {sequences: 16, microbatch_sequences: 4}
lr_schedule: {name: cosine, warmup_steps: 10, steps: $3}
checkpoint: {every_steps: $3}
device: $2
YAML
  trireme train "$1.yaml" "${@:4}"
}
# With workspace for half of what the largest case of the tests needs.
attention_in_parts() {
  TRIREME_ATTENTION_WORKSPACE=200000 cuda_kernels_gpu_test --gtest_filter=*Attention* >"$out/parts" 2>&1
  local status=$?
  grep 'goes in 2 parts' "$out/parts" || { echo "no case went in parts" && status=1; }
  tail -3 "$out/parts"
  return $status
}
rerun() {
  small_run "$out/first" cuda 50 && small_run "$out/second" cuda 50 || return
  local a b
  a=$(trireme checkpoint hash "$out/first" --json) && b=$(trireme checkpoint hash "$out/second" --json) || return
  echo "$a"
  [ "$a" = "$b" ]
}
two_gpus() {
  small_run "$out/one_gpu" cuda 50 && small_run "$out/two_data" cuda 50 --set layout.data=2 --set layout.zero=1 &&
    small_run "$out/two_stages" cuda 50 --set layout.pipeline=2 || return
  local a b c
  a=$(trireme checkpoint hash "$out/one_gpu" --json) && b=$(trireme checkpoint hash "$out/two_data" --json) &&
    c=$(trireme checkpoint hash "$out/two_stages" --json) || return
  echo "$a"
  [ "$a" = "$b" ] && [ "$a" = "$c" ]
}
# Every 50th loss of 1,000 steps lies within 2 % of the CPU's.
curve() {
  small_run "$out/on_gpu" cuda 1000 && small_run "$out/on_cpu" cpu 1000 || return
  paste <(grep -o '"loss": *[0-9.]*' "$out/on_gpu/metrics.jsonl" | grep -o '[0-9.]*$') \
    <(grep -o '"loss": *[0-9.]*' "$out/on_cpu/metrics.jsonl" | grep -o '[0-9.]*$') |
    awk 'NR % 50 == 0 {d = ($1 - $2) / $2; print NR, $1, $2, d; if (d > 0.02 || d < -0.02) bad = 1; n++}
         END {exit bad || n < 20}'
}
# The program's tests in shares side by side: what takes long there is the host. All but memcheck look
# at the program's own kernels: racecheck of 2025.3 breaks the libraries' products (it cannot handle
# one of their exceptions), and cuDNN reads, and drops, workspace that nobody has written.
sanitize() { # TOOL PROGRAM
  local shares=$(($(nproc) / 2)) i failed=0 pids=() options=() tests='*'
  if [ "$1" != memcheck ]; then
    export TRIREME_ATTENTION=own
    tests='-*MatMul*'
    [ "$1" = initcheck ] || options=(--kernel-name kernel_substring=trireme)
  fi
  [ $shares -gt 8 ] && shares=8
  [ $shares -lt 1 ] && shares=1
  for ((i = 0; i < shares; i++)); do
    GTEST_FILTER=$tests GTEST_TOTAL_SHARDS=$shares GTEST_SHARD_INDEX=$i \
      compute-sanitizer --tool "$1" --launch-timeout 60 "${options[@]}" --error-exitcode 1 "$2" >"$out/sanitizer_$1_$2_$i.txt" 2>&1 &
    pids+=($!)
  done
  for i in "${!pids[@]}"; do
    wait "${pids[$i]}" || { failed=$((failed + 1)) && grep -v '  OK \|RUN  ' "$out/sanitizer_$1_$2_$i.txt" | head -60; }
  done
  grep -h 'PASSED' "$out"/sanitizer_"$1"_"$2"_*.txt | awk '{n += $4} END {print n + 0, "tests passed"}'
  echo "$((shares - failed)) of $shares shares are clean"
  [ $failed -eq 0 ]
}
# Without the biases of its queries, keys and values.
qwen="llama-3.2-1b, hidden_size: 1536, intermediate_size: 8960, num_hidden_layers: 28, num_attention_heads: 12, num_key_value_heads: 2, vocab_size: 151936"
expect() { # MODEL BATCH LENGTH [MICROBATCHES]: on an H200, or else on an H100
  local machine=h100
  case $device in *H200*) machine=h200 ;; esac
  cat >"$out/plan.yaml" <<YAML
run: {dir: $out/plan}
model: {preset: $1}
data: {train: [{path: none}], sequence_length: $3}
batch: {sequences: $(($2 * ${4:-1})), microbatch_sequences: $2, sum_leaves: 1}
precision: {compute: bfloat16}
YAML
  trireme plan "$out/plan.yaml" --machine "$here/examples/machines/$machine.yaml" --json
}
timed() { # MODEL OPTIONS: mfu by the data sheet where it is known
  local peak=()
  case $device in *H100* | *H200*) peak=(--peak-tflops 989.4) ;; *A100*) peak=(--peak-tflops 312) ;; esac
  train_benchmark --device cuda --precision bfloat16 --steps 20 --untimed 5 "${peak[@]}" --preset "$@"
}
peer() { # PRESET BATCH
  LD_LIBRARY_PATH=$callers_libraries "$python" "$here/peers/pytorch_train.py" --preset "$1" --batch "$2" --length 1024 --dtype bfloat16 --compile --device cuda
}

# What the GPU did while a step ran: its clock in MHz, power in W and temperature, least to largest.
watch_gpu() { # FILE
  nvidia-smi --query-gpu=clocks.sm,power.draw,temperature.gpu --format=csv,noheader,nounits -lms 500 >"$1" 2>/dev/null
}
range() { # FILE COLUMN
  awk -F', *' -v c="$2" '$c + 0 > 0 {if (!n++ || $c + 0 < least) least = $c + 0; if ($c + 0 > most) most = $c + 0}
    END {if (n) printf "%g to %g", least, most}' "$1" 2>/dev/null
}
smi() { nvidia-smi --query-gpu="$1" --format=csv,noheader 2>/dev/null | head -1; }
device=$(smi name)
visible_gpus() {
  local all
  all=$(nvidia-smi -L 2>/dev/null | wc -l)
  [ -z "${CUDA_VISIBLE_DEVICES+set}" ] || all=$(tr ',' '\n' <<<"$CUDA_VISIBLE_DEVICES" | grep -c .)
  echo "$all"
}
missing() { # NEEDS: why the step cannot run, or nothing
  local need
  for need in $1; do
    case $need in
      gpu) [ -n "$device" ] || { echo "no GPU (nvidia-smi finds none)" && return; } ;;
      gpus2) [ "$(visible_gpus)" -ge 2 ] || { echo "fewer than two GPUs" && return; } ;;
      sanitizer) command -v compute-sanitizer >/dev/null || { echo "no compute-sanitizer on the PATH" && return; } ;;
      torch) "$python" -c 'import torch, transformers' 2>/dev/null || { echo "no torch and transformers for $python" && return; } ;;
      *)
        [ -x "$here/bin/$need" ] || { echo "$need is not in the bundle" && return; }
        local absent
        absent=$(with_libraries ldd "$here/bin/$need" 2>/dev/null | awk '/not found/ {print $1}' | paste -sd ' ')
        [ -z "$absent" ] || { echo "not on this machine: $absent" && return; }
        ;;
    esac
  done
}
quoted() { # a JSON string of stdin
  tr -d '\000-\010\013-\037' | awk 'BEGIN {ORS = ""; print "\""} {gsub(/\\/, "\\\\"); gsub(/"/, "\\\""); gsub(/\t/, " "); print (NR > 1 ? "\\n" : "") $0} END {print "\""}'
}

export -f small_run rerun two_gpus curve sanitize expect timed peer
export out here python device qwen callers_libraries
date=$(date -u +%Y-%m-%dT%H:%M:%SZ)
commit=$(cat "$here/commit" 2>/dev/null || echo unknown)
driver=$(smi driver_version)
clocks=$(smi clocks.sm,clocks.mem,clocks.max.sm,clocks.max.mem)
results=() rows=() ran=0 failed=0 unfinished=0
for part in "${parts[@]}"; do
  begin=$SECONDS
  while IFS='|' read -r in name needs command <&3; do
    [ "$in" = "$part" ] || continue
    log=$out/$part.$(tr -c 'a-zA-Z0-9\n' _ <<<"$name").log
    left=$((part_seconds - (SECONDS - begin)))
    [ "$part" = sanitizer ] && [ "$left" -gt $((part_seconds / 4)) ] && left=$((part_seconds / 4))
    watcher=
    why=$(missing "$needs")
    step_begin=$SECONDS
    if [ -n "$why" ]; then
      state=skipped
      echo "$why" >"$log"
    elif [ $left -le 0 ]; then
      state="cut off"
      echo "the part's $part_seconds s were over" >"$log"
    else
      ran=$((ran + 1))
      if [ "$part" = performance ] && [ -n "$device" ]; then
        watch_gpu "$log.gpu" &
        watcher=$!
      fi
      with_libraries timeout --kill-after=5 "$left" bash -c "$command" >"$log" 2>&1 </dev/null
      code=$?
      # The watcher's child is nvidia-smi, which would go on.
      [ -n "$watcher" ] && { pkill -P "$watcher" 2>/dev/null; kill "$watcher" 2>/dev/null; wait "$watcher" 2>/dev/null; }
      case $code in
        0) state=passed ;;
        124 | 137) state="cut off" && { [ "$part" = performance ] || unfinished=$((unfinished + 1)); } ;;
        *) state=failed && failed=$((failed + 1)) ;;
      esac
    fi
    took=$((SECONDS - step_begin))
    printf '%-12s %-34s %-8s %4d s  %s\n' "$part" "$name" "$state" "$took" "$why"
    tail=$(tail -c 4000 "$log")
    results+=("{\"part\": \"$part\", \"step\": $(quoted <<<"$name"), \"state\": \"$state\", \"seconds\": $took, \"sm_mhz\": $(range "$log.gpu" 1 | quoted), \"watts\": $(range "$log.gpu" 2 | quoted), \"celsius\": $(range "$log.gpu" 3 | quoted), \"output\": $(quoted <<<"$tail")}")
    rows+=("| $part | $name | $state | $took | $(tail -1 "$log" | cut -c 1-160 | tr '|' '/') |")
  done 3<<<"$steps"
done

# Measured beside expected, the peer and the goal for an H100 (targets: MFU in per cent), from the
# last JSON line of each step's log.
number() { # STEP KEY
  tail -1 "$out/performance.$(tr -c 'a-zA-Z0-9\n' _ <<<"$1").log" 2>/dev/null | grep -o "\"$2\": *[0-9.e+-]*" | head -1 | grep -o '[0-9.e+-]*$'
}
figures() {
  local model goal measured expected peer ratio
  echo "| model | tokens/s | MFU | expected by plan | torch.compile | ratio to it | goal on an H100 (MFU) | GPU memory |"
  echo "|---|---|---|---|---|---|---|---|"
  while IFS='|' read -r model goal; do
    measured=$(number "$model" tokens_per_second_best)
    expected=$(number "$model, expected" tokens_per_second)
    peer=$(number "$model, torch.compile" tokens_per_second_best)
    ratio=$(awk -v a="$measured" -v b="$peer" 'BEGIN {if (a > 0 && b > 0) printf "%.2f", a / b}')
    echo "| $model | ${measured:--} | $(number "$model" mfu) | ${expected:--} | ${peer:--} | ${ratio:--} | $goal | $(number "$model" memory_bytes_max) |"
  done <<'MODELS'
gpt2-124m|554000 (45 %)
gpt2-350m|217000 (50 %)
gpt2-774m|106000 (53 %)
gpt2-1558m|59500 (59 %)
gpt2-1558m without masters|
the shape of Qwen2.5-1.5B|(llmq: 58900, 56.7 %)
llama-2-7b, 4 layers|(62 %)
MODELS
}

join() { local IFS=,; echo "$*"; }
doctor=$(with_libraries trireme doctor --json 2>/dev/null || echo null)
cat >"$out/report.json" <<JSON
{"date": "$date", "commit": $(quoted <<<"$commit"), "device": $(quoted <<<"$device"), "driver": $(quoted <<<"$driver"),
 "clocks": $(quoted <<<"$clocks"), "clocks_fields": "sm, memory, sm max, memory max", "doctor": $doctor,
 "steps": [$(join "${results[@]}")]}
JSON
{
  echo "# GPU suite, $date"
  echo
  echo "Commit $commit · device ${device:-none} · driver ${driver:-none} · clocks (sm, memory, and their largest) ${clocks:-unknown}"
  echo
  echo "| part | step | state | seconds | last line |"
  echo "|---|---|---|---|---|"
  printf '%s\n' "${rows[@]}"
  if [[ " ${parts[*]} " == *" performance "* ]]; then
    echo
    figures
  fi
} >"$out/report.md"
echo "reports: $out/report.json, $out/report.md"
[ $failed -eq 0 ] && [ $unfinished -eq 0 ] && [ $ran -gt 0 ]
