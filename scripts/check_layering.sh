#!/usr/bin/env bash
# Which room may include which:
#   cluster -> cluster; storage, parallelism -> cluster, proto;
#   worker, coordinator -> storage, parallelism, cluster, proto, and never each other; cli -> all.
# Public headers (those that a header or another folder includes) include neither CUDA, NCCL, MPI,
# Asio nor generated protobuf code. Headers named asio_*.h in cluster/rpc and cluster/http are those
# rooms' own, and no other room includes them.
set -euo pipefail
cd "$(dirname "$0")/.."
rooms='cluster|storage|parallelism|worker|coordinator|proto|cli|tests|benchmarks'
status=0

check_room() { # ROOM ALLOWED...
  local room=$1 allowed
  shift
  allowed=$(IFS='|' && echo "$*")
  if git ls-files -z -- "$room/*.h" "$room/*.cc" "$room/*.cuh" "$room/*.cu" |
    xargs -0 -r grep -nHE "^#include \"($rooms)/" |
    grep -vE "#include \"($allowed)/"; then
    echo "layering: $room may include only: $*" >&2
    status=1
  fi
}

check_room cluster cluster proto
check_room storage storage cluster proto
check_room parallelism parallelism cluster proto
check_room worker worker storage parallelism cluster proto
check_room coordinator coordinator storage parallelism cluster proto

# A header is private when nothing but sources of its own folder include it.
is_private() { # HEADER
  ! git ls-files -z -- '*.h' '*.cc' | xargs -0 -r grep -lF "#include \"$1\"" |
    grep -vqE "^$(dirname "$1")/[^/]*\.cc$"
}
while IFS=: read -r header line; do
  is_private "$header" && continue
  echo "$header: $line: public headers include neither CUDA, NCCL, MPI, Asio nor .pb.h" >&2
  status=1
done < <(git ls-files -z -- '*.h' ':!tests' ':!cluster/rpc/asio_*.h' ':!cluster/http/asio_*.h' |
  xargs -0 -r grep -HE '^#include [<"](cuda|nccl|mpi\.h|boost/asio|.*\.pb\.h)')
if git ls-files -z -- '*.h' '*.cc' ':!cluster/rpc' ':!cluster/http' ':!tests' |
  xargs -0 -r grep -nHE '^#include "cluster/(rpc|http)/asio_'; then
  echo 'layering: asio_*.h belong to the rooms cluster/rpc and cluster/http' >&2
  status=1
fi
[ "$status" -eq 0 ] && echo 'layering: every include is allowed'
exit "$status"
