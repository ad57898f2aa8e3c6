#!/bin/bash
# What pip cannot bring: the system libraries open3d links against (nerfstudio loads point clouds with it), the
# headers that pyliblzfse, a dependency of viser, compiles against, and Python's venv module.
# Installs what is missing if it may, else prints the command and stops. Usage: system_packages.sh PYTHON
set -euo pipefail
python=${1:?usage: system_packages.sh PYTHON}

[ "$(uname -s)" = Linux ] || exit 0  # elsewhere the wheels bring theirs

version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
missing=()

need_library() {  # SONAME PACKAGE
    "$python" -c 'import ctypes, sys; ctypes.CDLL(sys.argv[1])' "$1" 2>/dev/null || missing+=("$2")
}
need_library libusb-1.0.so.0 libusb-1.0-0
# open3d's others, there on most machines but not in slim containers
need_library libGL.so.1 libgl1
need_library libEGL.so.1 libegl1
need_library libX11.so.6 libx11-6
need_library libudev.so.1 libudev1
need_library libidn2.so.0 libidn2-0

# Debian ships a Python without ensurepip and headers; others (pyenv, conda, uv) are complete
headers=$("$python" -c 'import sysconfig; print(sysconfig.get_paths()["include"])')
if ! command -v gcc >/dev/null || ! echo '#include <stdlib.h>' | gcc -fsyntax-only -x c - 2>/dev/null; then
    missing+=(gcc libc6-dev)
fi
[ -e "$headers/Python.h" ] || missing+=("python$version-dev")
"$python" -c 'import ensurepip, venv' 2>/dev/null || missing+=("python$version-venv")

[ ${#missing[@]} -gt 0 ] || exit 0

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "Installing system packages: ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq </dev/null
    apt-get install -y -qq --no-install-recommends "${missing[@]}" </dev/null
    exit 0
fi

if command -v apt-get >/dev/null; then
    echo "Some system packages are missing. Install them, then run make again:" >&2
else
    echo "Some system libraries are missing. These are Debian's names; install your system's, then run make again:" >&2
fi
echo "    sudo apt-get install ${missing[*]}" >&2
exit 1
