#!/usr/bin/env bash
# One command on all hosts of a TPU VM (v4-8, v5e-64, ...), from a machine that has gcloud.
#   TPU=NAME ZONE=us-central1-a launch/tpu_vm.sh setup            # once: the library on every host
#   TPU=NAME ZONE=us-central1-a launch/tpu_vm.sh errseg train --config=... --workdir=gs-mounted/runs/W
# The workdir and the data lie where every host sees them (a mounted bucket, Filestore).
set -euo pipefail
: "${TPU:?set TPU to the name of the TPU VM}" "${ZONE:?set ZONE to its zone}"
if [[ $# -lt 1 ]]; then
  echo "usage: TPU=NAME ZONE=ZONE launch/tpu_vm.sh setup | COMMAND..." >&2
  exit 2
fi
root=$(cd "$(dirname "$0")/.." && pwd)
on_all() { gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all --command="$1"; }
if [[ $1 == setup ]]; then
  archive=$(mktemp --suffix=.tar.gz)
  trap 'rm -f "$archive"' EXIT
  tar -czf "$archive" -C "$root" --exclude=.git --exclude='.venv*' --exclude=runs .
  gcloud compute tpus tpu-vm scp "$archive" "$TPU:errseg_jax.tar.gz" --zone="$ZONE" --worker=all
  on_all 'mkdir -p errseg_jax && tar -xzf errseg_jax.tar.gz -C errseg_jax && cd errseg_jax && python3 -m venv .venv &&
    .venv/bin/python -m pip install -q -c constraints.txt -e ".[tpu]" && .venv/bin/errseg doctor'
else
  printf -v words ' %q' "$@"
  on_all "cd errseg_jax && PATH=\$PWD/.venv/bin:\$PATH$words"
fi
