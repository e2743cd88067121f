#!/usr/bin/env bash
# Compiles every GPU kernel for the three architectures and looks at what the compiler made of it:
# no kernel spills registers but those named below, and the kernels that move 16 bytes an access do
# so in their PTX. Needs nvcc and no GPU. What was compiled before from the same sources is reused
# (build-cuda-check/).
set -euo pipefail
cd "$(dirname "$0")/.."
out=build-cuda-check
nvcc=$(command -v nvcc || echo "${CUDA_HOME:-/usr/local/cuda}/bin/nvcc")
if [ ! -x "$nvcc" ]; then
  echo "cuda: kernels are not compiled, nvcc is not here (NVIDIA's package cuda-toolkit)"
  exit 0
fi

# Registers that do not fit: KERNEL, ARCHITECTURE, at most so many bytes stored. Heads of 256 in the
# attention's backward pass are past what a thread holds, and so are blocks of 1,024 threads with the
# f32 in a wide layer norm; the others are a word or two.
cat >"${TMPDIR:-/tmp}/spills.$$" <<'LIST'
AttentionQueryGradientKernel<BackwardShapes<256>, sm_80 60
AttentionQueryGradientKernel<BackwardShapes<256>, sm_90a 8
AttentionQueryGradientKernel<BackwardShapes<64>, sm_100 4
NormBackwardKernel<1024, true, float, float> sm_80 40
NormBackwardKernel<1024, true, float, float> sm_90a 40
NormBackwardKernel<1024, true, float, float> sm_100 64
NormBackwardKernel<1024, true, BFloat16, float> sm_80 16
NormBackwardKernel<1024, true, BFloat16, float> sm_90a 16
NormBackwardKernel<1024, true, BFloat16, float> sm_100 64
LIST
trap 'rm -f "${TMPDIR:-/tmp}/spills.$$"' EXIT
# Kernels that claim 16-byte accesses, by how their names begin: loads and stores, or loads alone.
both='AdamWKernel|AdamWRoundedKernel|AddKernel|CastKernel|EmbeddingForwardKernel<8|'
both+='EmbeddingBackwardKernel<8|PositionEmbeddingKernel<8|GeluForwardKernel|GeluBackwardKernel|'
both+='SwiGluForwardKernel|SwiGluBackwardKernel|NormForwardKernel|NormBackwardKernel|RotaryKernel<8|'
both+='SoftmaxGradientKernel|AttentionForwardKernel|AttentionKeyGradientKernel|'
both+='AttentionQueryGradientKernel|CrossEntropyKernel'
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
awk -v both="^($both)" -v loads="^($loads)" '
  { name = $0; sub(/ [0-9]+ [0-9]+$/, "", name); l = $(NF - 1); s = $NF }
  name ~ both { ++seen; if (l == 0 || s == 0) { print "cuda: " name " has " l " loads and " s \
                " stores of 16 bytes"; bad = 1 } }
  name ~ loads { ++seen; if (l == 0) { print "cuda: " name " has no loads of 16 bytes"; bad = 1 } }
  END { if (seen == 0) { print "cuda: no kernel of those named was found"; bad = 1 }
        if (!bad) print "cuda: " seen " kernels move 16 bytes an access, as claimed"
        exit bad }' "$out/accesses" || failed=1
exit "${failed:-0}"
