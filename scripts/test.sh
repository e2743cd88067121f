#!/usr/bin/env bash
# Installs what is missing, builds everything and runs the CPU suite.
#
#   scripts/test.sh [ctest options]
#
# Tests on real inputs need TRIREME_SHARED, the folder that holds them; without it they are skipped
# and counted. With it, a missing file is a failure.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/install.sh

install_packages build test
mkdir -p build
echo "Building in build/ with $(build_jobs) jobs"
build_quietly build/configure.log \
  cmake -S . -B build -G Ninja -DCMAKE_BUILD_TYPE=Release -DTRIREME_TESTS=ON
build_quietly build/build.log cmake --build build -j "$(build_jobs)"

# Ranks of MPI tests share the cores of this machine with one another.
export OMP_WAIT_POLICY=passive
if [ "$(id -u)" -eq 0 ]; then
  export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
fi
status=0
(cd build && ctest -j2 -LE 'slow|chaos' --output-on-failure "$@") | tee build/ctest.log ||
  status=${PIPESTATUS[0]}

total=$(grep -cE '^ *[0-9]+/[0-9]+ Test +#' build/ctest.log || true)
skipped=$(grep -cE '^ *[0-9]+/[0-9]+ Test +#.*\*\*\*Skipped' build/ctest.log || true)
unset_skips=$(grep -cE 'TRIREME_SHARED is not set$' build/Testing/Temporary/LastTest.log || true)
echo
echo "$((total - skipped)) tests ran, $skipped were skipped," \
  "$unset_skips of them because TRIREME_SHARED is not set."
# ctest's own summary last, where people and tools look for it.
sed -n '/tests passed, .* tests failed/,$p' build/ctest.log | tee build/ctest_summary.txt
exit "$status"
