#!/usr/bin/env bash
# Runs the cases of a folder, each a folder with a run.sh that ends with 0 where the behaviour is right:
# .ci/cases.sh FOLDER. Prints the output of those that fail, and fails if one does.
set -euo pipefail
cd "$(dirname "$0")/.."

[ -d "${1:-}" ] || { echo "cases: no folder '${1:-}'; name one, e.g. make cases CASES=../cases" >&2; exit 2; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
count=0
failed=()
for run in "$1"/*/run.sh; do
  [ -e "$run" ] || { echo "cases: no run.sh in the folders of $1" >&2; exit 2; }
  name=$(basename "$(dirname "$run")")
  count=$((count + 1))
  if OUT="$work/out" bash "$run" >"$work/log" 2>&1; then
    echo "holds  $name"
  else
    cat "$work/log"
    echo "FAILS  $name"
    failed+=("$name")
  fi
  rm -rf "$work/out"
done
echo "$((count - ${#failed[@]})) of $count cases hold"
[ ${#failed[@]} = 0 ]
