#!/usr/bin/env bash
# One command in several processes on this machine.
#   launch/local.sh PROCESSES errseg train --config=... --workdir=...
# A GPU for each process where nvidia-smi finds as many; one process (the usual way) needs no script: it takes all GPUs.
# Ends with the status of the first process that fails, and stops the others.
set -euo pipefail
if [[ $# -lt 2 || ! $1 =~ ^[1-9][0-9]*$ ]]; then
  echo "usage: launch/local.sh PROCESSES COMMAND..." >&2
  exit 2
fi
count=$1
shift
# A port for each run: the processes of two runs that share one join whichever they find.
port=${ERRSEG_PORT:-$((10000 + $$ % 20000))}
gpus=0
if command -v nvidia-smi >/dev/null 2>&1; then
  gpus=$(nvidia-smi --list-gpus | wc -l)
fi
export JAX_COORDINATOR_ADDRESS=127.0.0.1:$port JAX_NUM_PROCESSES=$count
running=()
stop() { kill -TERM "${running[@]}" 2>/dev/null || true; }
for ((i = 0; i < count; i++)); do
  if ((gpus >= count)); then
    export CUDA_VISIBLE_DEVICES=$i
  fi
  JAX_PROCESS_ID=$i "$@" &
  running+=($!)
done
trap stop TERM INT # not before: a process that has yet to start its command would inherit it
status=0
while true; do
  ended=0
  wait -n -p pid || ended=$?
  if [[ -z ${pid:-} ]]; then
    if ((ended == 127)); then
      break # all have ended
    fi
    continue # a signal for all came in between
  fi
  if ((ended && !status)); then
    status=$ended
    if ((ended != 143)); then
      stop # of a run that was told to stop, the others are saving
    fi
  fi
done
exit "$status"
