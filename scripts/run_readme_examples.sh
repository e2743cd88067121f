#!/usr/bin/env bash
# Runs the examples of README.md: the `sh` blocks that follow a line <!-- run -->, in order, in one
# shell, in a folder of its own with the program on PATH, the repository at ./trireme and texts in
# ./corpus.
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
mkdir "$folder/corpus"
cp "$repo"/docs/*.md "$repo"/README.md "$folder/corpus"
cd "$folder"
# More ranks than cores, and perhaps root: Open MPI 4 and 5 ask for these in names of their own.
export OMPI_MCA_rmaps_base_oversubscribe=1 PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe
export OMP_WAIT_POLICY=passive
if [ "$(id -u)" -eq 0 ]; then
  export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
  export PRTE_ALLOW_RUN_AS_ROOT=1 PRTE_ALLOW_RUN_AS_ROOT_CONFIRM=1
fi
PATH=$repo/build:$PATH bash -euxo pipefail examples.sh >examples.log 2>&1 || {
  tail -40 examples.log >&2
  echo "README: an example failed" >&2
  exit 1
}
echo "README: $(grep -cvE '^ *(#|$)' examples.sh) lines of examples ran"
