#!/usr/bin/env bash
# From nothing to a trained model: installs packages by name, builds the program, takes real text
# and runs the program's own commands on it, printing each before it runs.
#
#   scripts/quickstart.sh                    Debian's reference manual in English and Chinese (HTML)
#   scripts/quickstart.sh MY_TEXTS/          any folder of texts, pages, jsonl
#   scripts/quickstart.sh --minutes 30       goes on training from there for about so long
#
# Run it again and it goes on where it stopped; what is there already is not made again. A folder
# whose files have changed since is refused.
set -euo pipefail
minutes=0
texts=
while [ $# -gt 0 ]; do
  case $1 in
    --minutes)
      minutes=${2:-}
      [[ $minutes =~ ^[0-9]+$ ]] || { echo "--minutes: expected a whole number" >&2; exit 2; }
      shift 2 ;;
    -h | --help) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"; exit 0 ;;
    -*) echo "$1: unknown option; expected --minutes N or a folder of texts" >&2; exit 2 ;;
    *) texts=$(realpath -e -- "$1") || exit 2; shift ;;
  esac
done
cd "$(dirname "$0")/.."
. scripts/install.sh
. scripts/quickstart_checks.sh
begin=$SECONDS

name=quickstart
[ -n "$texts" ] && name=$(corpus_name "$texts")
run=runs/$name
data=runs/${name}_data
[ -z "$texts" ] || check_same_texts "$texts" "$data" || exit 2

run() { # COMMAND...: shows it, then runs it
  printf '\n$'
  printf ' %q' "$@"
  printf '\n'
  "$@"
}
title() { printf '\n== %s (%d:%02d)\n' "$1" $(((SECONDS - begin) / 60)) $(((SECONDS - begin) % 60)); }

title "Packages"
install_packages build

title "The program"
mkdir -p build
if [ ! -f build/CMakeCache.txt ]; then
  build_quietly build/configure.log \
    cmake -S . -B build -G Ninja -DCMAKE_BUILD_TYPE=Release -DTRIREME_TESTS=OFF
fi
build_quietly build/build.log cmake --build build -j "$(build_jobs)" --target trireme
run build/trireme doctor

# Debian's own pages: fetched as packages and unpacked here, nothing is installed.
if [ -z "$texts" ]; then
  texts=$data/html
  if [ ! -f "$texts/.complete" ]; then
    title "Text: Debian's reference manual in English and Chinese"
    rm -rf "$data/packages" "$texts"
    mkdir -p "$data/packages" "$texts"
    apt_update
    (cd "$data/packages" && apt-get download -qq debian-reference-en debian-reference-zh-cn 2>/dev/null)
    for package in "$data"/packages/*.deb; do dpkg-deb -x "$package" "$data/packages"; done
    find "$data/packages/usr" -name '*.html' -exec cp -t "$texts" {} +
    rm -rf "$data/packages"
    touch "$texts/.complete"
  fi
fi

# mpirun: as root it wants to be asked twice, and by default it starts no more ranks than cores.
mpirun=(mpirun -n 5)
[ "$(id -u)" -eq 0 ] && mpirun+=(--allow-run-as-root)
[ "$(nproc)" -lt 5 ] && mpirun+=(--oversubscribe)
train=(build/trireme train examples/quickstart.yaml)
if [ "$name" != quickstart ]; then
  train+=(--set "run.dir=$run" --set "data.train=$data/corpus_train"
    --set "data.validation=$data/corpus_validation")
fi

title "Cleaning"
if [ -f "$data/clean.report.json" ] && [ -f "$data/clean.jsonl.zst" ]; then
  echo "$data/clean.jsonl.zst is there already"
else
  run build/trireme clean "$texts" --out "$data/clean.jsonl.zst"
fi

title "A vocabulary of 4,096 tokens"
if [ -f "$data/tokenizer.json" ]; then
  echo "$data/tokenizer.json is there already"
else
  run build/trireme tokenizer train "$data/clean.jsonl.zst" --vocab-size 4096 \
    --out "$data/tokenizer.json"
fi

title "Tokens"
if [ -f "$data/corpus_validation.json" ]; then
  echo "$data/corpus_train and _validation are there already"
else
  run build/trireme pack "$data/clean.jsonl.zst" --tokenizer "$data/tokenizer.json" \
    --out "$data/corpus" --validation 0.05
fi

title "The plan"
run build/trireme plan "${train[@]:2}"

steps=$(sed -n 's/^lr_schedule:.* steps: \([0-9]*\).*/\1/p' examples/quickstart.yaml)
more=$((steps + steps / 10))
# The last step in the metrics, or 0: where a run that was started before stands.
last_step() { sed -n 's/.*"step": *\([0-9]*\).*/\1/p' "$run/metrics.jsonl" 2>/dev/null | tail -1 || true; }
done_steps=$(last_step)

if [ "${done_steps:-0}" -lt "$steps" ]; then
  title "Training: a coordinator and four workers, data 2 x tensor 2"
  run "${mpirun[@]}" "${train[@]}"
fi

title "How good it is, beside what counting words alone would give"
run build/trireme eval --model "$run" --task "perplexity=$data/corpus_validation"
run build/trireme eval --task "ngram=$data/corpus_train:$data/corpus_validation"

done_steps=$(last_step)
if [ "${done_steps:-0}" -lt "$more" ]; then
  title "The same checkpoint on another layout: pipeline 2 x data 2"
  run "${mpirun[@]}" "${train[@]}" --set layout.tensor=1 --set layout.pipeline=2 \
    --set "lr_schedule.steps=$more"
fi

if [ "$minutes" -gt 0 ]; then
  # As many steps as fit, from the speed of the last ones.
  step_ms=$(sed -n 's/.*"step_ms": *\([0-9]*\).*/\1/p' "$run/metrics.jsonl" | tail -20 |
    sort -n | head -10 | tail -1)
  done_steps=$(last_step)
  target=$((done_steps + minutes * 60000 / (step_ms > 0 ? step_ms : 1)))
  title "On from there: $minutes minutes more, to step $target"
  run "${mpirun[@]}" "${train[@]}" --set "lr_schedule.steps=$target" \
    --set checkpoint.every_steps=200 --set validation.every_steps=200
  run build/trireme eval --model "$run" --task "perplexity=$data/corpus_validation"
fi

title "What it says"
run build/trireme generate --model "$run" --prompt "The Debian system" --max-tokens 60 --seed 1 \
  --temperature 0.8 --top-k 40
run build/trireme generate --model "$run" --prompt "软件包" --max-tokens 60 --seed 1 \
  --temperature 0.8 --top-k 40

title "For other programs"
rm -rf "${run}_hf"
run build/trireme export --model "$run" --format hf --out "${run}_hf"

minutes_taken=$(((SECONDS - begin) / 60))
seconds_taken=$(((SECONDS - begin) % 60))
number() { sed -n "s/.*\"$1\": *\([0-9]*\)\(\.[0-9]\)\{0,1\}.*/\1\2/p" | tail -1; }
reached=$(number validation_perplexity <"$run/metrics.jsonl")
counted=$(build/trireme eval --json --task "ngram=$data/corpus_train:$data/corpus_validation" |
  number unigram_perplexity)
[ "$name" != quickstart ] || check_perplexity "$reached" "$counted" || exit 1
cat <<END

The model's perplexity on text that it has not seen is $reached; counting tokens alone gives $counted.
Done in $minutes_taken min $seconds_taken s. You have:
  build/trireme          the program
  $data   the cleaned text, tokenizer.json and the tokens
  $run        the run: metrics.jsonl, events.jsonl, checkpoints/
  ${run}_hf     the model as a Hugging Face folder
Type next:
  build/trireme generate --model $run --prompt "Linux" --max-tokens 100
  build/trireme checkpoint list $run/checkpoints
  scripts/quickstart.sh --minutes 30      # train on from here
  scripts/quickstart.sh MY_TEXTS/         # the same on your own texts
END
