#!/bin/bash
# Run the fast tests on the lowest and on the newest versions that pyproject.toml allows, each in an
# environment of its own under .versions/ (about 6 GB each where torch brings CUDA libraries), and
# print one line per set. docs/machines.md keeps the last result.
#
#   scripts/check_versions.sh                           # lowest, then newest
#   scripts/check_versions.sh newest                    # one set: lowest, pinned or newest
#   TESTS="tests/plumbrule/cli tests/sft" scripts/check_versions.sh lowest     # some tests
#   PYTHON_NEWEST=python3.13 TORCH_INDEX=<index of CPU builds> scripts/check_versions.sh
#
# lowest: the lower bound of each dependency, its newest patch release. pinned: constraints.txt.
# newest: what the index offers today, and Hydra's newest release candidate.
set -uo pipefail
cd "$(dirname "$0")/.."
sets=("$@")
[ $# -eq 0 ] && sets=(lowest newest)
where="${WHERE:-.versions}"
export HF_HUB_OFFLINE=1 WANDB_SILENT=true PYTHONPATH="$PWD"
failed=0 summary=()

interpreter() {  # interpreter <set>: the Python that a set is tried on
  case "$1" in
    lowest) echo "${PYTHON_LOWEST:-python3.11}" ;;
    newest) echo "${PYTHON_NEWEST:-python3.13}" ;;
    *) echo "${PYTHON_PINNED:-python3.12}" ;;
  esac
}

install() {  # install <set>: make its environment, torch first and alone, as make install does
  local name="$1" home="$where/$1" index=()
  [ -n "${TORCH_INDEX:-}" ] && index=(--index-url "$TORCH_INDEX")
  test -x "$home/bin/python" || "$(interpreter "$name")" -m venv "$home" || return 1
  "$home/bin/python" scripts/version_sets.py "$name" > "$home/requirements.txt" || return 1
  "$home/bin/python" -m pip install --quiet --upgrade pip || return 1
  grep -i '^torch[=<> ]*' "$home/requirements.txt" > "$home/torch.txt"
  "$home/bin/python" -m pip install --quiet --upgrade "${index[@]}" -r "$home/torch.txt" || return 1
  "$home/bin/python" -m pip install --quiet --upgrade -r "$home/requirements.txt"
}

for name in "${sets[@]}"; do
  case "$name" in lowest | pinned | newest) ;; *)
    echo "set (=$name) must be lowest, pinned or newest"; exit 2 ;;
  esac
  if ! command -v "$(interpreter "$name")" > /dev/null; then
    summary+=("$name: not run, $(interpreter "$name") is not here"); failed=1; continue
  fi
  mkdir -p "$where"
  if ! install "$name" > "$where/$name.install.log" 2>&1; then
    tail -n 20 "$where/$name.install.log"
    summary+=("$name: not installed, see $where/$name.install.log"); failed=1; continue
  fi
  # shellcheck disable=SC2086
  OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" "$where/$name/bin/python" -m pytest -n "${JOBS:-2}" \
    --dist loadfile -m "not slow" ${TESTS:-tests} 2>&1 | tee "$where/$name.log" | tail -n 30
  [ "${PIPESTATUS[0]}" -eq 0 ] || failed=1
  versions=$("$where/$name/bin/python" scripts/version_sets.py --installed)
  summary+=("$name: $versions: $(tail -n 1 "$where/$name.log")")
done
printf '%s\n' "${summary[@]}"
exit "$failed"
