#!/usr/bin/env bash
# Start a Slurm of two nodes on this machine, submit both files of examples/slurm for a pipeline that trains in seconds,
# check what they leave, and stop it. As root, in a container, after `apt-get install -y slurm-wlm`.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
here=$(mktemp -d)
mkdir -p "$here"/{state,spool,home,tmp}
export SLURM_CONF=$here/slurm.conf HOME=$here/home TMPDIR=$here/tmp
export VITSCALE_DEVICE=cpu VITSCALE_THREADS=1 DVC_NO_ANALYTICS=1
started=()
stop() {
    code=$?
    ((code == 0)) || tail -v -n 30 "$here"/*.log "$here"/repo/slurm-*.out 2>/dev/null || true
    scancel --user root 2>/dev/null && sleep 3
    kill -9 "${started[@]}" 2>/dev/null || true # a Slurm without munge would wait for it
    rm -rf "$here"
    exit "$code"
}
trap stop EXIT
run_in_background() {
    "${@:2}" >"$here/$1.log" 2>&1 &
    started+=($!)
    disown
}

dd if=/dev/urandom of="$here/munge.key" bs=1024 count=1 status=none
chmod 400 "$here/munge.key"
cat >"$SLURM_CONF" <<CONF
ClusterName=try
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmctldPort=26817
SlurmUser=root
AuthInfo=socket=$here/munge.socket
StateSaveLocation=$here/state
SlurmdSpoolDir=$here/spool/%n
SlurmctldPidFile=$here/slurmctld.pid
SlurmdPidFile=$here/%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
NodeName=node1 NodeHostname=$(hostname -s) NodeAddr=127.0.0.1 Port=26818 CPUs=$(nproc)
NodeName=node2 NodeHostname=$(hostname -s) NodeAddr=127.0.0.1 Port=26819 CPUs=$(nproc)
PartitionName=all Nodes=ALL Default=YES
CONF
run_in_background munged munged --foreground --force --key-file="$here/munge.key" --pid-file="$here/munge.pid" \
    --log-file="$here/munged.log" --seed-file="$here/munge.seed" --socket="$here/munge.socket"
sleep 1
run_in_background slurmctld slurmctld -D
run_in_background node1 slurmd -D -N node1
run_in_background node2 slurmd -D -N node2
for ((i = 0; i < 60; i++)); do
    [[ $(sinfo -h -o %t 2>/dev/null) == idle ]] && break
    sleep 1
done
set -x
sinfo

: The pipeline of the tests, in a repository of its own.
export GIT_{AUTHOR,COMMITTER}_NAME=try GIT_{AUTHOR,COMMITTER}_EMAIL=try@example.org
PYTHONPATH=$root/src:$root/tests python -c 'import pathlib, sys, tiny; tiny.tiny(pathlib.Path(sys.argv[1]))' "$here/repo"
cd "$here/repo"
echo "slurm-*.out" >>.git/info/exclude
dvc repro -q prepare init

: One stage on two nodes, and what it recorded: DVC has nothing left to do.
sbatch --wait --nodes 2 "$root/examples/slurm/train.sbatch" pretrain vit-digits
cat slurm-*.out
grep -q "2 processes" slurm-*.out
[[ $(dvc status pretrain) == *"up to date"* ]]

: A sweep of three jobs.
dvc repro -q
git add -A
git commit -qm "The first run"
rm slurm-*.out
sbatch --wait --array=0-2 "$root/examples/slurm/sweep.sbatch" "-S lr=1e-4" "-S lr=3e-4" "-S lr=3e-3"
tail -n 4 slurm-*.out
dvc exp show --csv --drop '.*' --keep 'accuracy|^lr|Experiment' | tee "$here/experiments"
[[ $(grep -c "sweep-" "$here/experiments") == 3 ]]
git status --short
ls "$TMPDIR"
set +x
echo "Both files of examples/slurm do what they say."
