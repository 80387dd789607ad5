#!/usr/bin/env bash
# Runs the tests in an environment of their own (.venv; see scripts/env.sh).
#
#   bash scripts/test.sh [pytest arguments]         unit and parity tests
#   bash scripts/test.sh --all [pytest arguments]   linters, types and the documentation first, then all tests: the
#                                                   notebooks, every architecture, real models, real data, NDIF and
#                                                   in a browser too (where they come from: tests/helpers/assets.py,
#                                                   tests/conftest.py); Chromium is installed where it is missing
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

# The atlas is tested in a real browser: Debian's Chromium and its driver, or what CHROMIUM and CHROMEDRIVER name.
have_browser() {
  if command -v "${CHROMIUM:-chromium}" >/dev/null && command -v "${CHROMEDRIVER:-chromedriver}" >/dev/null; then
    return
  fi
  if [[ $(id -u) == 0 ]] && command -v apt-get >/dev/null; then
    echo "installing chromium"
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium chromium-driver >/dev/null && return
  fi
  echo "The tests of the atlas need Chromium and chromedriver, which cannot be installed here. Install them (Debian: apt-get" >&2
  echo "install chromium chromium-driver) or name them with CHROMIUM= and CHROMEDRIVER=; without them these tests are skipped." >&2
}

select=(-m "not real and not ndif and not browser and not architectures" tests)
# One process per core and one thread in each: small models gain nothing from a second thread.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
parallel=(-n logical --maxprocesses 4)
if [[ ${1:-} == --all ]]; then
  select=(--nbmake --nbmake-timeout=900 tests notebooks)
  shift
  make_environment dev
  "$python" -m ruff check .
  "$python" -m ruff format --check .
  "$python" -m mypy
  NO_MKDOCS_2_WARNING=1 "$python" -m mkdocs build --strict --quiet
  have_browser
else
  make_environment dev
fi
"$python" -m pytest "${parallel[@]}" "${select[@]}" "$@"
echo "scripts/test.sh took ${SECONDS} s"
