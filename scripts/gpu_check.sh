#!/bin/bash
# What an accelerator has to show, in parts that can be run alone, most valuable first. Each prints a
# JSON object on one line when it ends, also where its limit ends it, and adds it to results.jsonl in
# $OUT (default: gpu-check/), where its log is, too; a failed part does not stop the others.
# The limits of all parts together are below 13 minutes; on a CPU each is five times as long.
#
#   scripts/gpu_check.sh                                  # on an accelerator
#   DEVICE=cpu SHAPE=small scripts/gpu_check.sh           # the same parts on a CPU, small
#   scripts/gpu_check.sh tests decode                     # some parts: tests decode ppo search resume
#
# W&B, FAISS, bm25s, datasets and TRL may be missing. On an accelerator wheels in .whl/ are used before
# what is installed (Hydra, OmegaConf, ...), and TRL in .trl/ is what `ppo` is compared with
# (scripts/gather_wheels.sh brings both; that side of `ppo` needs datasets).
set -uo pipefail
cd "$(dirname "$0")/.."
device="${DEVICE:-cuda}" shape="${SHAPE:-1b}" out="${OUT:-gpu-check}" python="${PYTHON:-python3}"
parts=("$@")
[ $# -eq 0 ] && parts=(tests decode ppo search resume)
case "$shape" in small | 1b) ;; *) echo "SHAPE (=$shape) must be small or 1b"; exit 2 ;; esac
for name in "${parts[@]}"; do
  case "$name" in tests | decode | ppo | search | resume) ;; *)
    echo "part (=$name) must be tests, decode, ppo, search or resume"; exit 2 ;;
  esac
done
mkdir -p "$out"
scratch="$(mktemp -d)"
trap 'rm -rf "$scratch"' EXIT
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1
if [ "$device" != cpu ] && ls .whl/*.whl > /dev/null 2>&1; then
  "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir \
    --target "$scratch/site" .whl/*.whl || exit 1
  export PYTHONPATH="$PYTHONPATH:$scratch/site"
fi
if [ "$device" != cpu ] && ! "$python" -c "import torch; raise SystemExit(not torch.cuda.is_available())"; then
  echo "DEVICE (=$device) must be cpu here: torch sees no accelerator."
  exit 2
fi
failed=0 patience=1
[ "$device" = cpu ] && patience=5

report() {  # report <name> <exit code> <seconds> <limit>: the part's line, with the last JSON that it printed
  "$python" - "$@" "$out" <<'EOF'
import json, pathlib, sys
name, code, seconds, limit, out = sys.argv[1:]
result, last = None, ""
for line in (pathlib.Path(out) / f"{name}.log").read_text(encoding="utf-8", errors="replace").splitlines():
    last = line.strip() or last
    if line.startswith("{"):
        try:
            result = json.loads(line)
        except ValueError:
            pass
found = {"part": name, "exit": int(code), "seconds": int(seconds), "limit_seconds": int(limit), "result": result}
if int(code) == 124:
    found["cut_off"] = True
elif int(code) or result is None:
    found["last_line"] = last[:300]
line = json.dumps(found)
print(line)
with open(pathlib.Path(out) / "results.jsonl", "a", encoding="utf-8") as file:
    file.write(line + "\n")
EOF
}

part() {  # part <name> <seconds at most> <command...>
  local name="$1" limit="$(($2 * patience))" began=$SECONDS
  shift 2
  echo "== $name: $*" >&2
  timeout --kill-after=10 "$limit" "$@" > "$out/$name.log" 2>&1
  local code=$?
  # killed: by timeout, or before its limit by something else, such as for memory
  [ "$code" -eq 137 ] && [ $((SECONDS - began)) -ge "$limit" ] && code=124
  [ "$code" -eq 0 ] || { failed=1; tail -n 30 "$out/$name.log" >&2; }
  report "$name" "$code" "$((SECONDS - began))" "$limit"
}

"$python" - > "$out/machine.log" <<'EOF'
import json, platform, torch, transformers
found = {"torch": torch.__version__, "transformers": transformers.__version__, "python": platform.python_version()}
if torch.cuda.is_available():
    about = torch.cuda.get_device_properties(0)
    found |= {"device": about.name, "memory_gib": round(about.total_memory / 2**30, 1), "cuda": torch.version.cuda}
print(json.dumps(found))
EOF
report machine $? 0 0
together=(--shape "$shape" --device "$device")
workload=(--workload "$scratch/workload")
precision=bfloat16 sides=(bfloat16) repeats=2
if [ "$device" = cpu ]; then precision=float32 sides=(float32) repeats=1; fi
[ -d .trl ] && sides+=(trl)
sides+=(shared)
trl=()
[ -d .trl ] && trl=(--trl "$PWD/.trl")
for name in "${parts[@]}"; do
  case "$name" in
    tests)
      # shellcheck disable=SC2046
      part tests 110 "$python" -m pytest -m gpu -rs $(grep -rl "mark.gpu" tests --include="*.py")
      ;;
    decode)
      part decode 160 "$python" scripts/bench_decode.py "${together[@]}" "${workload[@]}" \
        --repeats "$repeats" --prompts "$([ "$shape" = 1b ] && echo 256 || echo 64)" \
        --only slots generate continuous
      ;;
    ppo)
      part ppo 340 "$python" scripts/bench_ppo.py "${together[@]}" "${workload[@]}" \
        --repeats 1 --updates 1 --only "${sides[@]}" "${trl[@]}"
      ;;
    search) part search 50 "$python" scripts/bench_search.py "${together[@]}" --repeats "$repeats" ;;
    resume)
      part resume 90 "$python" scripts/kill_stage.py --device "$device" --precision "$precision"
      ;;
  esac
done
exit "$failed"
