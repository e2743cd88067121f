#!/usr/bin/env bash
# Every tracked source is as clang-format leaves it. Versions format differently, so only the one the
# sources were formatted with decides: clang-format 14 (Debian 12; later ones have clang-format-14).
set -euo pipefail
cd "$(dirname "$0")/.."
for program in "${CLANG_FORMAT:-}" clang-format-14 clang-format; do
  if [ -n "$program" ] && command -v "$program" >/dev/null &&
    "$program" --version | grep -q 'version 14\.'; then
    git ls-files -z '*.cc' '*.h' '*.cu' '*.cuh' | xargs -0 "$program" --dry-run -Werror
    echo "format: every source is as clang-format 14 leaves it"
    exit 0
  fi
done
echo "format: not checked, clang-format 14 is not here"
[ "${TRIREME_REQUIRE_CLANG_FORMAT:-0}" != 1 ]
