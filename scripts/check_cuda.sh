#!/usr/bin/env bash
# Compiles every GPU kernel for the three architectures and looks at what the compiler made of it:
# no kernel spills registers but those named below, and the kernels that move 16 bytes an access do
# so in their PTX, and in their SASS where cuobjdump is. Also reads the backend's C++ sources against
# the headers of CUDA, cuBLASLt, cuDNN and NCCL. Needs nvcc and no GPU; without nvcc it does nothing,
# or fails when TRIREME_REQUIRE_NVCC=1. What was compiled before from the same sources is reused
# (build-cuda-check/).
set -euo pipefail
cd "$(dirname "$0")/.."
out=build-cuda-check
nvcc=$(command -v nvcc || echo "${CUDA_HOME:-/usr/local/cuda}/bin/nvcc")
if [ ! -x "$nvcc" ]; then
  echo "cuda: kernels are not compiled, nvcc is not here (NVIDIA's package cuda-toolkit)"
  [ "${TRIREME_REQUIRE_NVCC:-0}" != 1 ]
  exit
fi

# The backend's host code, as C++ alone: seconds, and no CI step builds it otherwise.
host() {
  local include=${nvcc%/bin/nvcc}/include sources
  sources=$(git ls-files '*_cuda.cc' '*_cudnn.cc' | grep -vE '/no_cu')
  [ -f "$include/cudnn_graph.h" ] || sources=$(grep -v _cudnn <<<"$sources")
  # shellcheck disable=SC2086
  if echo $sources | xargs -n 1 -P 2 "${CXX:-g++}" -std=c++20 -fsyntax-only -Wall -I. \
      -isystem build -isystem "$include"; then
    echo "cuda: $(wc -w <<<"$sources") C++ sources of the backend agree with the toolkit's headers"
  else
    echo "cuda: the backend's C++ sources do not compile" && return 1
  fi
}
if [ -f build/proto/config.pb.h ]; then
  host || failed=1
else
  echo "cuda: the backend's C++ sources are not read, build/ has no generated headers yet"
fi

# Registers that do not fit: KERNEL, ARCHITECTURE, at most so many bytes stored. Heads of 256 in the
# attention's backward pass are past what a thread holds, and so are blocks of 1,024 threads with the
# f32 in a wide layer norm; the others are a word or two.
cat >"${TMPDIR:-/tmp}/spills.$$" <<'LIST'
AttentionQueryGradientKernel<BackwardShapes<256>, sm_80 60
AttentionQueryGradientKernel<BackwardShapes<256>, sm_90a 8
AttentionQueryGradientKernel<BackwardShapes<64>, sm_100 4
NormBackwardKernel<1024, true, float, float> sm_80 64
NormBackwardKernel<1024, true, float, float> sm_90a 64
NormBackwardKernel<1024, true, float, float> sm_100 64
NormBackwardKernel<1024, true, BFloat16, float> sm_100 64
LIST
trap 'rm -f "${TMPDIR:-/tmp}/spills.$$"' EXIT
# Kernels that claim 16-byte accesses, by how their names begin: loads and stores, or loads alone.
both='AdamWKernel|AdamWRoundedKernel|AddKernel|CastKernel|EmbeddingForwardKernel<8|'
both+='EmbeddingBackwardKernel<8|PositionEmbeddingKernel<8|GeluForwardKernel|GeluBackwardKernel|'
both+='SwiGluForwardKernel|SwiGluBackwardKernel|NormForwardKernel|NormBackwardKernel|RotaryKernel<8|'
both+='SoftmaxGradientKernel|AttentionForwardKernel|AttentionKeyGradientKernel|'
both+='AttentionQueryGradientKernel|CrossEntropyKernel|SumInOrderKernel<float, true, 2>|'
both+='SumInOrderKernel<float, true, 4>|SumInOrderKernel<float, true, 8>'
loads='SoftmaxStatisticsKernel|SumsOfSquaresKernel|SumF64Kernel|StateChecksumKernel|'
loads+='BiasPartialsKernel<8|LongRunsKernel<8'

options='-std=c++20 -O3 -DNDEBUG --expt-relaxed-constexpr -fmad=false -I.
  --generate-code=arch=compute_80,code=[sm_80] --generate-code=arch=compute_90a,code=[sm_90a]
  --generate-code=arch=compute_100,code=[compute_100,sm_100] -Xptxas=-v --keep'
stamp=$( ("$nvcc" --version && echo "$options" &&
  git ls-files -z '*.cu' '*.cuh' 'cluster/**.h' 'worker/kernels/*.h' 'worker/optimizer/*.h' |
  xargs -0 cat) | sha256sum)
if [ "$(cat "$out/stamp" 2>/dev/null)" != "$stamp" ]; then
  rm -rf "$out"
  mkdir -p "$out"
  # The longest first, two at a time.
  compile='dir=$2/$(basename "$3" .cu); mkdir -p "$dir"
    "$0" $1 --keep-dir "$dir" -c "$3" -o "$dir/out.o" >"$dir/log" 2>&1 ||
      { echo "cuda: $3 does not compile" >&2; head -20 "$dir/log" >&2; exit 1; }'
  git ls-files '*_cuda.cu' | sed -E 's/.*attention/0 &/;t;s/.*norm/1 &/;t;s/^/2 /' | sort |
    cut -d' ' -f2 | xargs -P 2 -I{} bash -c "$compile" "$nvcc" "$options" "$out" {}
  echo "$stamp" >"$out/stamp"
fi

# kernel|architecture|bytes spilled
spills() {
  cat "$out"/*/log | c++filt | sed -E 's/trireme::(gpu::)?//g' | awk '
    /Compiling entry function/ { split($0, part, "\x27"); name = part[2]; arch = part[4]
                                 sub(/^void /, "", name); sub(/\(.*/, "", name) }
    /bytes spill stores/ { sub(/.*frame, /, ""); print name "|" arch "|" $1 }'
}
spills >"$out/spills"
awk -F'|' -v list="${TMPDIR:-/tmp}/spills.$$" '
  BEGIN { while ((getline line < list) > 0) {
            n = split(line, word, " "); key = line; sub(/ [^ ]+ [^ ]+$/, "", key)
            name[++count] = key; arch[count] = word[n - 1]; most[count] = word[n] } }
  { ++kernels; allowed = 0
    for (i = 1; i <= count; ++i)
      if (index($1, name[i]) == 1 && $2 == arch[i]) allowed = most[i]
    if ($3 + 0 > allowed + 0) {
      print "cuda: " $1 " spills " $3 " bytes on " $2 " (" allowed " are known)"; bad = 1 } }
  END { if (kernels == 0) { print "cuda: ptxas told nothing"; bad = 1 }
        if (!bad) print "cuda: " kernels " kernels, none spills beyond what is known"
        exit bad }' "$out/spills" || failed=1

# kernel loads stores: 16-byte accesses of each
for ptx in "$out"/*/*.ptx; do
  awk '/\.entry / { name = $0; sub(/.*\.entry /, "", name); sub(/\(.*/, "", name); l = s = 0 }
       /ld\.global[a-z0-9._:L]*\.(v4\.[bfu]32|v2\.[bfu]64)/ { ++l }
       /st\.global[a-z0-9._:L]*\.(v4\.[bfu]32|v2\.[bfu]64)/ { ++s }
       /^}/ { if (name != "") print name, l, s; name = "" }' "$ptx"
done | c++filt | sed -E 's/trireme::(gpu::)?//g; s/^void //; s/\(.*\)//' >"$out/accesses"
# Of each name in the two lists there is a kernel, and all that have it do as they claim.
# claims FILE WHAT WHERE: lines of "kernel loads stores".
claims() {
  awk -v both="$both" -v loads="$loads" -v what="$2" -v where="$3" '
    BEGIN { n = split(both, b, "|"); m = split(loads, l, "|") }
    { name = $0; sub(/ [0-9]+ [0-9]+$/, "", name)
      for (i = 1; i <= n; ++i) if (index(name, b[i]) == 1) {
        ++seen; ++of_both[i]
        if ($(NF - 1) == 0 || $NF == 0) { bad = 1
          print "cuda: " name " has " $(NF - 1) " loads and " $NF " stores of 16 bytes" where } }
      for (i = 1; i <= m; ++i) if (index(name, l[i]) == 1) {
        ++seen; ++of_loads[i]
        if ($(NF - 1) == 0) { bad = 1
          print "cuda: " name " has no loads of 16 bytes" where } } }
    END { for (i = 1; i <= n; ++i) if (!of_both[i]) { bad = 1; print "cuda: no kernel " b[i] where }
          for (i = 1; i <= m; ++i) if (!of_loads[i]) { bad = 1; print "cuda: no kernel " l[i] where }
          if (!bad) print "cuda: " seen " kernels move 16 bytes an access" where what
          exit bad }' "$1"
}
claims "$out/accesses" ", as claimed" " in their PTX" || failed=1

# The same of the machine code, and whether it keeps anything in local memory that was not known.
if command -v cuobjdump >/dev/null && command -v nvdisasm >/dev/null; then
  for arch in sm_80 sm_90a sm_100; do
    for object in "$out"/*/out.o; do
      cuobjdump -sass -arch $arch "$object"
    done | awk '/Function :/ { if (name != "") print name, l, s; name = $3; l = s = 0 }
         /LDG\.[A-Z0-9.]*(128|256)/ { ++l } /STG\.[A-Z0-9.]*(128|256)/ { ++s }
         END { print name, l, s }' |
      c++filt | sed -E 's/trireme::(gpu::)?//g; s/^void //; s/\(.*\)//' >"$out/sass.$arch"
    claims "$out/sass.$arch" "" " in their SASS for $arch" || failed=1
  done
else
  echo "cuda: the machine code is not looked at, cuobjdump and nvdisasm are not here"
fi
exit "${failed:-0}"
