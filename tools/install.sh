#!/bin/sh
# Installs edgelora from this folder alone: no network is used. Usage: sh install.sh [DIRECTORY]
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
target=${1:-"$HOME/edgelora"}
python=${PYTHON:-python@PYTHON@}

if [ "$(uname -m)" != "@MACHINE@" ]; then
    echo "error: this kit is for @MACHINE@, this machine is $(uname -m)" >&2
    echo "  fix: make offline-kit PLATFORM=linux-$(uname -m)" >&2
    exit 7
fi
if ! command -v "$python" >/dev/null 2>&1; then
    echo "error: $python is not installed; the wheels of this kit are for Python @PYTHON@" >&2
    echo "  fix: install it, or name it: PYTHON=/path/to/python@PYTHON@ sh install.sh" >&2
    exit 7
fi
found=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
if [ "$found" != "@PYTHON@" ]; then
    echo "error: $python is Python $found; the wheels of this kit are for Python @PYTHON@" >&2
    echo "  fix: PYTHON=/path/to/python@PYTHON@ sh install.sh" >&2
    exit 7
fi

"$python" -m venv "$target"
# --isolated: no pip configuration of this machine may bring in other sources or constraints.
"$target/bin/python" -m pip --isolated install --quiet --disable-pip-version-check --no-index \
    --find-links "$here/wheels" --require-hashes --requirement "$here/requirements.txt"
"$target/bin/edgelora" --version

echo "installed in $target; next:"
echo "  export PATH=\"$target/bin:\$PATH\""
echo "  @NEXT@"
