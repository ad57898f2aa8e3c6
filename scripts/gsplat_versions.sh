#!/bin/bash
# Runs tests/rendering/test_gsplat_versions.py with other versions of gsplat than the installed one. Each is fetched from PyPI once, into a
# folder of its own that goes first on PYTHONPATH; the environment stays as it is. No CUDA and no compiler are needed.
# Usage: scripts/gsplat_versions.sh [VERSION ...]      (1.4.0 and 1.5.3 unless named)
#   PYTHON: whose environment to use, .venv's unless given. FOLDER: where the versions are kept, build/gsplat unless given.
# Exits with 75 if a version cannot be fetched.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
folder=${FOLDER:-build/gsplat}
[ $# -gt 0 ] || set -- 1.4.0 1.5.3

for version in "$@"; do
    home=$folder/$version
    if [ ! -e "$home/gsplat/version.py" ]; then
        mkdir -p "$folder"
        partial=$(mktemp -d "$folder/.fetching.XXXXXX")
        if ! "$python" -m pip install --quiet --disable-pip-version-check --no-compile --no-deps \
            --target "$partial" "gsplat==$version"; then
            rm -rf "$partial"
            echo "gsplat $version cannot be fetched from PyPI" >&2
            exit 75
        fi
        rm -rf "$home"
        mv "$partial" "$home"
    fi
    echo "gsplat $version"
    GSPLAT_UNDER_TEST=$version PYTHONPATH=$PWD/$home${PYTHONPATH:+:$PYTHONPATH} \
        "$python" -m pytest tests/rendering/test_gsplat_versions.py -m "not slow" -q
done
