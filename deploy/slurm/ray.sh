# shellcheck shell=bash
# Ray over the nodes of a Slurm allocation. For batch scripts, which run on the allocation's first node: `source` this, then
#   start_ray            one Ray node on each node, with a token of this allocation's own; sets RAY_ADDRESS
#   attended COMMAND...  runs a command that ends in order on SIGTERM, and hands it what Slurm asks for; sets `status` and `asked`
#   stop_ray             ends what start_ray has started
# Settings, by the environment:
#   JACLOOM_IP           address of the first node for the others, where the first private one of its name is not the right one
#   JACLOOM_RAY_PORT     port of Ray's head there; by default one that depends on the job's number

_folder=$(dirname "${BASH_SOURCE[0]}")
_ray=""
_child=""
_signals=0
# Read by those who source this. 75: to be tried again, as long as nothing has run.
# shellcheck disable=SC2034
status=75 asked=""

# USR1 comes before the time limit (sbatch --signal), TERM with `scancel` and preemption. Both can come at any time.
trap '_signalled USR1' USR1
trap '_signalled TERM' TERM

_signalled() {
    asked=$1
    _signals=$((_signals + 1))
    [[ -z $_child ]] || kill -TERM "$_child" 2>/dev/null || true
}

start_ray() {
    local ip port
    ip=${JACLOOM_IP:-$(_private_address)} || return 1
    # Above the ports that Ray gives to its workers, 10002 to 19999, and below those that Linux gives to clients, from 32768 on.
    port=${JACLOOM_RAY_PORT:-$((20000 + SLURM_JOB_ID % 10000))}
    # By the environment, which other users cannot read, and not by arguments, which they can. srun hands it on to the nodes.
    export RAY_AUTH_MODE=token RAY_AUTH_TOKEN RAY_ADDRESS=$ip:$port
    RAY_AUTH_TOKEN=$(python3 -c 'import secrets; print(secrets.token_hex(32))')
    # Where a node's Ray ends, the others go on.
    srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 --cpus-per-task="$SLURM_CPUS_PER_TASK" \
        --overlap --kill-on-bad-exit=0 bash "$_folder/node.sh" &
    _ray=$!
    until ray health-check --address "$RAY_ADDRESS" >/dev/null 2>&1; do
        if ! kill -0 "$_ray" 2>/dev/null; then
            echo "Ray has not started at $RAY_ADDRESS; why is above. JACLOOM_RAY_PORT sets another port, JACLOOM_IP another address." >&2
            return 1
        fi
        [[ -z $asked ]] || return 0
        sleep 1
    done
    echo "Ray is up at $RAY_ADDRESS"
}

# Whoever reaches Ray's ports and has the token runs code: an address for the whole internet is not taken unless somebody says so.
_private_address() {
    python3 - <<'PYTHON'
import ipaddress, socket, sys

name = socket.gethostname()
found = {entry[4][0]: ipaddress.ip_address(entry[4][0]) for entry in socket.getaddrinfo(name, None, socket.AF_INET)}
private = [text for text, address in found.items() if not address.is_global and not address.is_loopback]
if not private:
    sys.exit(f"{name} has no private address for the other nodes, only {', '.join(found)}: set JACLOOM_IP to the one that they should use.")
print(private[0])
PYTHON
}

attended() {
    local before
    # Asked to stop before there was anything to stop.
    [[ -z $asked ]] || return 0
    "$@" &
    _child=$!
    while true; do
        before=$_signals
        status=0
        wait "$_child" || status=$?
        # A signal ends `wait` with more than 128, and not yet the command.
        [[ $_signals != "$before" && $status -gt 128 ]] || break
    done
    _child=""
}

stop_ray() {
    [[ -n $_ray ]] || return 0
    kill -TERM "$_ray" 2>/dev/null || true
    wait "$_ray" || true
    _ray=""
}
