#!/usr/bin/env bash
# Runs the tests in an environment of their own (.venv; see scripts/env.sh).
#
#   bash scripts/test.sh [pytest arguments]         unit and parity tests
#   bash scripts/test.sh --all [pytest arguments]   linters and types first, then the tests on real models, real data,
#                                                   every architecture and NDIF too (where they come from:
#                                                   tests/assets.py, tests/conftest.py)
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

select=(-m "not real and not ndif and not architectures")
if [[ ${1:-} == --all ]]; then
  select=()
  shift
  make_environment dev
  "$python" -m ruff check .
  "$python" -m ruff format --check .
  "$python" -m mypy
else
  make_environment dev
fi
"$python" -m pytest ${select[@]+"${select[@]}"} "$@"
echo "scripts/test.sh took ${SECONDS} s"
