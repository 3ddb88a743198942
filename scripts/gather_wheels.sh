#!/bin/bash
# Fetch what a machine without a network lacks to run scripts/gpu_check.sh, as wheels in .whl/, and
# TRL 1.12 for the benchmark in .trl/. For Python 3.12 on x86-64 with torch 2.11, transformers 5.17 or
# later, sentence-transformers, peft, accelerate, pyarrow, pandas, scikit-learn, sacrebleu, xxhash and
# pytest installed there. Versions are those of constraints.txt. NAMES="transformers tokenizers" adds
# wheels to the list.
#
#   scripts/gather_wheels.sh        # here, where there is an index; then take .whl and .trl along
set -euo pipefail
cd "$(dirname "$0")/.."
python="${PYTHON:-python3}"
# shellcheck disable=SC2206
names=(
  hydra-core omegaconf trl datasets dill multiprocess bm25s pystemmer nltk vadersentiment
  ${NAMES:-}
)
mkdir -p .whl
rm -f .whl/*.whl
platforms=()
for name in manylinux_2_28 manylinux_2_27 manylinux_2_17 manylinux2014 manylinux1; do
  platforms+=(--platform "${name}_x86_64")
done
for name in "${names[@]}"; do
  pinned=$(grep -i "^${name//[-_]/[-_]}==" constraints.txt || echo "$name")
  "$python" -m pip download -q --no-deps --only-binary=:all: --python-version 3.12 \
    --implementation cp "${platforms[@]}" -d .whl "$pinned"
done
# These are published as source only; what they build into is the same everywhere.
for name in antlr4-python3-runtime rouge_score; do
  "$python" -m pip wheel -q --no-deps -w .whl "$(grep -i "^$name==" constraints.txt)"
done
"$python" scripts/bench_ppo.py --prepare .trl
du -ch .whl .trl | tail -1
