#!/usr/bin/env bash
# Runs the tests in an environment of their own (.venv; see scripts/env.sh).
#
#   bash scripts/test.sh [pytest arguments]            unit and parity tests
#   bash scripts/test.sh --types [pytest arguments]    the same with every annotation checked at run time
#                                                      (tests/helpers/runtime_types.py)
#   bash scripts/test.sh --all [pytest arguments]      linters, types, spelling, the documentation and the error rates of
#                                                      all tests and verdicts (benchmarks/calibration.py) first. Then the unit
#                                                      tests with every annotation checked and, where Python has a cheap
#                                                      way, their coverage. Then others:
#                                                      the notebooks, every architecture, real models, real data, NDIF
#                                                      and in a browser (where they come from: tests/helpers/assets.py,
#                                                      tests/conftest.py); Chromium is installed where it is missing
#   bash scripts/test.sh --minimum [pytest arguments]  unit tests with the oldest versions that pyproject.toml allows
#                                                      (constraints-min.txt), in .venv-minimum
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

# One process per core and one thread in each: small models gain nothing from a second thread.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
# Bytecode is kept, whatever the machine's default: some tests start processes, and each would compile thousands of files.
unset PYTHONDONTWRITEBYTECODE
# Each process gets a run of neighbours, so that what the tests of a file share is made once, and takes tests from another
# when its own are done.
parallel=(-n logical --maxprocesses 4 --dist worksteal)
others="real or ndif or browser or architectures or notebook"

unit_tests() {
  "$python" -m pytest "${parallel[@]}" -m "not ($others)" tests "$@"
}

# Coverage costs a few percent of the time from Python 3.12 on (sys.monitoring), and half of it before.
coverage=()
measure_coverage() {
  if "$python" -c 'import sys; sys.exit(sys.version_info < (3, 12))'; then
    export COVERAGE_CORE=sysmon
    coverage=(--cov=modalnet --cov-report=)
  fi
}

case ${1:-} in
  --all)
    shift
    make_environment dev
    "$python" -m ruff check .
    "$python" -m ruff format --check .
    "$python" -m codespell_lib
    "$python" -m mypy
    NO_MKDOCS_2_WARNING=1 "$python" -m mkdocs build --strict --quiet
    "$python" benchmarks/calibration.py --short --strict --worst --jobs 2
    have_browser
    measure_coverage
    MODALNET_CHECK_TYPES=1 unit_tests "${coverage[@]}" "$@"
    if ((${#coverage[@]})); then "$python" -m coverage report | tail -1; fi
    echo "unit tests done after ${SECONDS} s"
    "$python" -m pytest "${parallel[@]}" --nbmake --nbmake-timeout=900 -m "$others" tests notebooks "$@"
    ;;
  --types)
    shift
    make_environment dev
    MODALNET_CHECK_TYPES=1 unit_tests "$@"
    ;;
  --minimum)
    shift
    environment=.venv-minimum constraints=constraints-min.txt
    make_environment test
    # Old libraries beside newer ones that they use give warnings of deprecation without end.
    unit_tests -W default "$@"
    ;;
  *)
    make_environment dev
    unit_tests "$@"
    ;;
esac
echo "scripts/test.sh took ${SECONDS} s"
