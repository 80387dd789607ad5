#!/usr/bin/env bash
# Runs the tests in an environment of their own (.venv; see scripts/env.sh).
#
#   bash scripts/test.sh [pytest arguments]         unit and parity tests
#   bash scripts/test.sh --all [pytest arguments]   linters, types and the documentation first, then all tests: the
#                                                   notebooks, real models, real data and NDIF too (where they come
#                                                   from: tests/assets.py, tests/conftest.py)
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

select=(-m "not real and not ndif" tests)
# One process per core and one thread in each: small models gain nothing from a second thread.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
parallel=(-n logical --maxprocesses 4 --dist loadgroup)
if [[ ${1:-} == --all ]]; then
  select=(--nbmake --nbmake-timeout=900 tests notebooks)
  shift
  make_environment dev
  "$python" -m ruff check .
  "$python" -m ruff format --check .
  "$python" -m mypy
  NO_MKDOCS_2_WARNING=1 "$python" -m mkdocs build --strict --quiet
else
  make_environment dev
fi
"$python" -m pytest "${parallel[@]}" "${select[@]}" "$@"
echo "scripts/test.sh took ${SECONDS} s"
