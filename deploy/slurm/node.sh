#!/usr/bin/env bash
# One node of the Ray cluster at RAY_ADDRESS: its head on the allocation's first node, workers on the others. Started by ray.sh through srun.
set -euo pipefail

address=$RAY_ADDRESS
# `ray start` would take it for a cluster to join, on the head, too.
unset RAY_ADDRESS
# Sockets live below, whose paths must stay short. Other jobs on this machine have folders of their own.
folder=/tmp/jacloom-$SLURM_JOB_ID-$SLURM_NODEID
IFS=, read -ra gpus <<<"${CUDA_VISIBLE_DEVICES:-}" || true
options=(--num-cpus="$SLURM_CPUS_PER_TASK" --num-gpus="${#gpus[@]}")
if [[ ${SLURM_MEM_PER_NODE:-0} -gt 0 ]]; then
    # In MiB. Ray would count all memory of the machine; the allocation has less of it, and shared memory is part of that.
    options+=(--memory="$((SLURM_MEM_PER_NODE * 734003))" --object-store-memory="$((SLURM_MEM_PER_NODE * 209715))")
fi
if [[ $SLURM_NODEID == 0 ]]; then
    options+=(--head --node-ip-address="${address%:*}" --port="${address##*:}" --include-dashboard=false)
else
    until ray health-check --address "$address" >/dev/null 2>&1; do sleep 1; done
    options+=(--address="$address")
fi

# With the settings for Ray that `jacloom serve` has for its own.
with_settings='import os, sys; from jacloom_server import environment; environment.prepare(local=False); os.execvp(sys.argv[1], sys.argv[1:])'
python3 -c "$with_settings" ray start "${options[@]}" --temp-dir="$folder" --block &
ray=$!
trap 'rm -rf "$folder"' EXIT
trap 'kill -TERM "$ray"' TERM
# Once more, for when a signal has ended the first one.
wait "$ray" || wait "$ray"
