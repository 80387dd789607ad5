# Sourced by the other scripts: moves to the repository's root and defines make_environment.
#
#   PYTHON                what makes the environment (default python3; 3.10 or newer)
#   MODALNET_TORCH_INDEX  a package index asked for torch besides the usual ones, if it is within reach. The default has
#                         small CPU wheels (PyPI's own for Linux carries CUDA, gigabytes). Empty: the usual ones alone.

cd "$(dirname "${BASH_SOURCE[0]}")/.."
environment=.venv constraints=constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK=1

# make_environment [EXTRA]: an environment with torch, modalnet (editable) and what its extra EXTRA asks for, at the
# versions of $constraints; sets python. One that is there is kept, and installed into again only when the declared
# dependencies have changed.
make_environment() {
  local extra=${1:-} base=${PYTHON:-python3} wanted
  python=$environment/bin/python
  local stamp=$environment/.installed-${extra:-plain}
  wanted="$PWD $(cat pyproject.toml "$constraints" | cksum)"
  if [[ -x $python && -f $stamp && $(<"$stamp") == "$wanted" ]]; then
    return
  fi
  if ! "$base" -c 'import sys; sys.exit(sys.version_info < (3, 10))'; then
    echo "modalnet needs Python 3.10 or newer; $base is $("$base" --version 2>&1). Name another one: PYTHON=python3.12 bash $0" >&2
    exit 1
  fi
  if ! "$python" -m pip --version >/dev/null 2>&1; then
    echo "1/3 making $environment"
    # Some distributions split ensurepip off: there the pip that is outside brings one in.
    "$base" -m venv --clear "$environment" >/dev/null 2>&1 || {
      "$base" -m venv --clear --without-pip "$environment"
      "$base" -m pip --python "$python" install -qq pip
    }
  fi
  echo "2/3 installing torch"
  local index=${MODALNET_TORCH_INDEX-https://download.pytorch.org/whl/cpu}
  if ! "$python" -c 'import sys, urllib.request as r; r.urlopen(sys.argv[1], timeout=5)' "$index/torch/" 2>/dev/null; then
    index=
  fi
  # Its dependencies come with the next step, from the usual index. One torch for all: the version of constraints.txt.
  "$python" -m pip install -qq --no-compile --no-deps ${index:+--extra-index-url "$index"} -c constraints.txt torch
  echo "3/3 installing modalnet${extra:+[$extra]}"
  "$python" -m pip install -qq --no-compile -c "$constraints" -e ".${extra:+[$extra]}"
  echo "$wanted" >"$stamp"
  echo "environment ready after ${SECONDS} s"
}
