#!/usr/bin/env bash
# What `plan` says a rank needs beside what the ranks of a run took: metrics.jsonl's memory_bytes_max
# and the largest resident set of a worker, as the kernel counted it.
#
#   benchmarks/memory_of_plan.sh TRIREME RUN_YAML LAYOUT...
#
# LAYOUT: overrides joined by commas: layout.data=2,layout.tensor=2
set -euo pipefail
trireme=$(realpath "$1") yaml=$2
shift 2
[ "$(id -u)" -ne 0 ] || export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
field() { grep -o "\"$1\":[0-9]*" | sed "s/.*://" | sort -n | tail -1; }

printf '%-52s %10s %10s %7s %10s %7s\n' layout 'plan MiB' 'run MiB' ratio 'RSS MiB' ratio
for layout in "$@"; do
  sets=(--set "run.dir=$folder/run" --set lr_schedule.steps=4 --set lr_schedule.warmup_steps=1
    --set checkpoint.every_steps=1000)
  for set in ${layout//,/ }; do sets+=(--set "$set"); done
  plan=$("$trireme" plan "$yaml" "${sets[@]}" --tflops 0.1 --memory-gib 64 --json)
  planned=$(field memory_bytes_max <<<"$plan")
  workers=$(field workers <<<"$plan")
  # The largest VmHWM among the ranks but rank 0, sampled: it only grows.
  mpirun --oversubscribe --bind-to none -n $((workers + 1)) bash -c '
    [ "$OMPI_COMM_WORLD_RANK" -gt 0 ] || exec "$@"
    "$@" & pid=$!
    while grep VmHWM /proc/$pid/status 2>/dev/null >"'"$folder"'/hwm.new.$OMPI_COMM_WORLD_RANK" &&
      mv "'"$folder"'/hwm.new.$OMPI_COMM_WORLD_RANK" "'"$folder"'/hwm.$OMPI_COMM_WORLD_RANK"; do
      sleep 0.05
    done
    wait $pid' run "$trireme" train "$yaml" "${sets[@]}" >"$folder/log" 2>&1 || {
    cat "$folder/log" >&2
    exit 1
  }
  ran=$(field memory_bytes_max <"$folder/run/metrics.jsonl")
  resident=$(($(cat "$folder"/hwm.[0-9]* | grep -o '[0-9]*' | sort -n | tail -1) * 1024))
  awk -v l="$layout" -v p="$planned" -v r="$ran" -v s="$resident" 'BEGIN {
    m = 1048576
    printf "%-52s %10.1f %10.1f %7.3f %10.1f %7.3f\n", l, p / m, r / m, r / p, s / m, s / p }'
  rm -rf "$folder/run" "$folder"/hwm.*
done
