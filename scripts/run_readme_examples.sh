#!/usr/bin/env bash
# Runs the examples of README.md: the `sh` blocks that follow a line <!-- run -->, in order, in one
# shell, in a folder of its own with the program on PATH and the repository at ./trireme.
#
#   scripts/run_readme_examples.sh [README.md]
set -euo pipefail
repo=$(cd "$(dirname "$0")/.." && pwd)
readme=$(realpath "${1:-$repo/README.md}")
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

awk '/^<!-- run -->$/ { marked = 1; next }
     marked && /^```sh$/ { inside = 1; marked = 0; blocks++; next }
     inside && /^```$/ { inside = 0; next }
     inside { print }
     END { if (blocks == 0) exit 1 }' "$readme" >"$folder/examples.sh" || {
  echo "README: no example is marked <!-- run -->" >&2
  exit 1
}
ln -s "$repo" "$folder/trireme"
cd "$folder"
PATH=$repo/build:$PATH bash -euxo pipefail examples.sh >examples.log 2>&1 || {
  tail -40 examples.log >&2
  echo "README: an example failed" >&2
  exit 1
}
echo "README: $(grep -cvE '^ *(#|$)' examples.sh) lines of examples ran"
