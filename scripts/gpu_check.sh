#!/bin/bash
# What an accelerator has to show, in parts that each print their result and leave a log under $OUT
# (default: gpu-check/). Needs neither wandb nor faiss; wheels in .whl/ are installed first
# (scripts/gather_wheels.sh). Each part has a limit, on a CPU five times as long; together they end
# within 13 minutes on an accelerator.
#
#   scripts/gpu_check.sh                                  # on an accelerator
#   DEVICE=cpu SHAPE=small scripts/gpu_check.sh           # the same parts on a CPU, small
#   scripts/gpu_check.sh tests decode                     # some parts: tests decode ppo
set -uo pipefail
cd "$(dirname "$0")/.."
device="${DEVICE:-cuda}" shape="${SHAPE:-1b}" out="${OUT:-gpu-check}" python="${PYTHON:-python3}"
parts=("${@:-tests}")
[ $# -eq 0 ] && parts=(tests decode ppo)
mkdir -p "$out"
export PYTHONPATH="$PWD" PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1
if ls .whl/*.whl > /dev/null 2>&1; then
  site="$(mktemp -d)"
  "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$site" .whl/*.whl || exit 1
  export PYTHONPATH="$PWD:$site"
fi
if [ "$device" != cpu ] && ! "$python" -c "import torch; raise SystemExit(not torch.cuda.is_available())"; then
  echo "DEVICE (=$device) must be cpu here: torch sees no accelerator."
  exit 2
fi
failed=0 patience=1
[ "$device" = cpu ] && patience=5
part() {  # part <name> <seconds at most> <command...>
  local name="$1" limit="$2" began=$SECONDS
  shift 2
  echo "== $name: $*"
  timeout "$((limit * patience))" "$@" 2>&1 | tee "$out/$name.log" | tail -n 40
  local code="${PIPESTATUS[0]}"
  [ "$code" -eq 0 ] || failed=1
  echo "== $name: exit $code after $((SECONDS - began)) s"
}
"$python" -c "import torch, transformers as t; print('torch', torch.__version__, 'transformers', t.__version__, torch.cuda.get_device_name() if torch.cuda.is_available() else 'no accelerator')"
for name in "${parts[@]}"; do
  case "$name" in
    tests) part tests 180 "$python" -m pytest -m gpu -rs $(grep -rl "mark.gpu" tests --include="*.py") ;;
    decode) part decode 200 "$python" scripts/bench_decode.py --shape "$shape" --device "$device" --repeats 2 ;;
    ppo)
      trl=()
      [ -d .trl ] && trl=(--trl .trl)
      part ppo 400 "$python" scripts/bench_ppo.py --shape "$shape" --device "$device" --repeats 1 --updates 1 "${trl[@]}"
      ;;
    *) echo "part (=$name) must be tests, decode or ppo"; exit 2 ;;
  esac
done
exit "$failed"
