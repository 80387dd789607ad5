#!/usr/bin/env bash
# From a clone to localized units: makes an environment in .venv, localizes the language and the vision network of the
# bundled model. Needs bash, Python 3.10 or newer and pip; takes under three minutes on two cores.
#
#   bash scripts/demo.sh [options of `modalnet demo`]
#
# scripts/env.sh lists the variables that change where Python and torch come from.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

make_environment
.venv/bin/modalnet demo "$@"
echo "scripts/demo.sh took ${SECONDS} s"
