#!/usr/bin/env bash
# Writes the lock files from pyproject.toml; `make lock` calls it. Versions already locked stay where pyproject.toml
# allows them: .ci/lock.sh --upgrade takes the newest.
#
# requirements-cpu.lock and requirements-cuda.lock are what a run needs. On top of either, requirements-quickstart.lock is
# what demonstrations need; on top of that, requirements-dev.lock is what tests, evaluation and benchmarks need. They are
# resolved for Python 3.11 on x86-64 and checked for the others.
# uv reads its own index settings (UV_DEFAULT_INDEX), not pip's.
set -euo pipefail
cd "$(dirname "$0")/.."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
upgrade=("$@")
demo=(--extra quickstart)
all=("${demo[@]}" --extra evaluate --extra adapt --extra mteb --extra bench --extra dev)

fail() {
  echo "lock: $1" >&2
  exit 1
}

compile() { # PYTHON MACHINE ARGUMENT...
  .venv/bin/uv pip compile --quiet --no-annotate --no-header --no-python-downloads \
    --python-version "$1" --python-platform "$2-manylinux_2_34" "${@:3}"
}

resolve() { # DEVICE ARGUMENT...: $work/DEVICE is for a run, $work/DEVICE-demo for demonstrations, $work/DEVICE-all for all
  local device=$1
  local everything=$work/$device-all
  grep -oh '^[^# ]*==[^ +]*' "requirements-$device.lock" requirements-{quickstart,dev}.lock >"$everything"
  compile 3.11 x86_64 pyproject.toml --extra "$device" "${all[@]}" "${@:2}" "${upgrade[@]}" -o "$everything" >/dev/null
  compile 3.11 x86_64 pyproject.toml --extra "$device" "${demo[@]}" -c "$everything" >"$work/$device-demo"
  compile 3.11 x86_64 pyproject.toml --extra "$device" -c "$everything" >"$work/$device"
}

# The same versions have to do for every Python and machine; what one of them does not need is harmless there.
check() { # PINS PYTHON MACHINE EXTRA...
  compile "$2" "$3" pyproject.toml --only-binary :all: "${@:4}" -c "$1" >"$work/other"
  if grep -vxFf "$1" "$work/other"; then
    fail "Python $2 on $3 needs these too"
  fi
}

write() { # NAME: $work/NAME with hashes
  {
    echo "# Written by \`make lock\`."
    cat "$work/unverified"
    # Intel's library of OpenMP has no wheel for other machines, and needs none there.
    compile 3.11 x86_64 --no-deps --generate-hashes "$work/$1" |
      sed -E 's/^intel-[^ ]+/& ; platform_machine == "x86_64"/'
  } >"$work/lock"
  mv "$work/lock" "requirements-$1.lock"
}

resolve cuda
grep -vxFf "$work/cuda" "$work/cuda-demo" >"$work/quickstart"
grep -vxFf "$work/cuda-demo" "$work/cuda-all" >"$work/dev"
resolve cpu -c "$work/quickstart" -c "$work/dev"
grep -vxFf "$work/cpu" "$work/cpu-demo" | sort -u - "$work/quickstart" -o "$work/quickstart"
grep -vxFf "$work/cpu-demo" "$work/cpu-all" | sort -u - "$work/dev" -o "$work/dev"
for device in cpu cuda; do
  for python in 3.11 3.12 3.13 3.14; do
    for machine in aarch64 x86_64; do
      check "$work/$device" "$python" "$machine" --extra "$device"
      check "$work/$device-demo" "$python" "$machine" --extra "$device" "${demo[@]}"
    done
    check "$work/$device-all" "$python" x86_64 --extra "$device" "${all[@]}"
  done
  if sort -u "$work/$device" "$work/quickstart" "$work/dev" | cut -d = -f 1 | uniq -d | grep .; then
    fail "these have one version in requirements-$device.lock and another in those on top of it"
  fi
done

true >"$work/unverified"
write cuda
write quickstart
write dev
# torch for CPUs comes from PyTorch's index or the user's own, not from PyPI, and uv knows no hash of it: .ci/install.sh
# installs it apart. vLLM for CPUs works without what else torch for GPUs brings.
{ echo "# Not verified: torch for CPUs."; sed -n 's/^torch==.*/&+cpu/p' "$work/cpu"; } >"$work/unverified"
sed -E -i '/^(cuda-|nvidia-|torch(audio|codec|vision)?==|triton==)/d' "$work/cpu"
write cpu
