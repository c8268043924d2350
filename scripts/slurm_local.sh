#!/usr/bin/env bash
# A real SLURM of one node on this machine, to try and to test cluster=slurm, from Debian's packages:
#
#   apt-get install slurm-wlm munge
#   eval "$(scripts/slurm_local.sh start)"     start munged, slurmctld, slurmd; prints SLURM_CONF's export
#   scripts/slurm_local.sh status
#   scripts/slurm_local.sh stop                cancel what is queued and end exactly these three
#
# Everything lies in ${SLURM_LOCAL:-${XDG_STATE_HOME:-~/.local/state}/lrd-slurm}, sockets and key too: a
# SLURM or munge of the system is not touched, and ports are free ones. SLURM_LOCAL_CPUS may be given
# (default: the machine's). Jobs of the partition `urgent` preempt those of `main`, the default one. No
# accounting: sacct only says so.
set -euo pipefail

folder=$(realpath -m "${SLURM_LOCAL:-${XDG_STATE_HOME:-$HOME/.local/state}/lrd-slurm}")
cpus=${SLURM_LOCAL_CPUS:-$(getconf _NPROCESSORS_ONLN)}
export SLURM_CONF=$folder/slurm.conf
PATH=$PATH:/usr/sbin

say() { echo "$*" >&2; }
fail() { say "error: $*"; exit 2; }

# The id of a daemon that start left running, or nothing.
running() {
  local pid
  pid=$(cat "$folder/$1.pid" 2>/dev/null) || return 0
  [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = "$1" ] && echo "$pid" || true
}

# Whether something listens on a port of this machine.
taken() { (: <"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

configure() {
  local host user memory port=16817
  while taken "$port" || taken $((port + 1)); do port=$((port + 2)); done
  host=$(hostname -s) user=$(id -un) memory=$(awk '/MemTotal/ {print int($2 / 1024 * 0.9)}' /proc/meminfo)
  mkdir -p "$folder"/{state,spool,log}
  chmod 755 "$folder"
  if [ ! -s "$folder/munge.key" ]; then
    (umask 077 && head -c 1024 /dev/urandom >"$folder/munge.key")
  fi
  # A job that is queued anew waits for cred_expire seconds; one that is asked to end gets KillWait.
  cat >"$SLURM_CONF" <<CONF
ClusterName=lrd
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
SlurmdPort=$((port + 1))
SlurmUser=$user
SlurmdUser=$user
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/log/slurmctld.log
SlurmdLogFile=$folder/log/slurmd.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
ReturnToService=2
KillWait=2
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=1
NodeName=$host NodeAddr=127.0.0.1 CPUs=$cpus RealMemory=$memory State=UNKNOWN
PartitionName=main Nodes=$host Default=YES State=UP MaxTime=INFINITE PriorityTier=1
PartitionName=urgent Nodes=$host State=UP MaxTime=INFINITE PriorityTier=2
CONF
}

start() {
  local name missing=() host
  for name in munged slurmctld slurmd sbatch srun; do
    command -v "$name" >/dev/null || missing+=("$name")
  done
  [ ${#missing[@]} = 0 ] || fail "${missing[*]} not found: apt-get install slurm-wlm munge"
  if [ -n "$(running slurmctld)" ] && [ -n "$(running slurmd)" ]; then
    say "runs already in $folder"
  else
    [ ${#folder} -le 90 ] || fail "a socket's path is short: set SLURM_LOCAL to a shorter one than $folder"
    stop  # what is left of one that is half down has other ports
    configure
    host=$(hostname -s)
    begin munged --force --socket="$folder/munge.socket" --key-file="$folder/munge.key" \
      --pid-file="$folder/munged.pid" --seed-file="$folder/munge.seed" --log-file="$folder/log/munged.log"
    begin slurmctld
    begin slurmd -N "$host"
    for _ in $(seq 60); do
      case $(sinfo -h -n "$host" -p main -o %t 2>/dev/null) in
        idle | mix | alloc) break ;;
        down* | drain*) scontrol update NodeName="$host" State=RESUME 2>/dev/null || true ;;
      esac
      sleep 0.5
    done
    if ! sinfo -h -p main -t idle,mix,alloc -o %t 2>/dev/null | grep -q .; then
      say "the node does not come up:"
      tail -n 5 "$folder"/log/*.log >&2 || true
      stop
      exit 1
    fi
    say "SLURM of $cpus CPUs runs in $folder"
  fi
  echo "export SLURM_CONF=$SLURM_CONF"
}

begin() {
  [ -z "$(running "$1")" ] || return 0
  "$@" >>"$folder/log/$1.out" 2>&1 || { tail -n 5 "$folder/log/$1.out" >&2; stop; fail "$1 does not start"; }
  for _ in $(seq 50); do
    [ -n "$(running "$1")" ] && return
    sleep 0.1
  done
  tail -n 5 "$folder"/log/"$1".* >&2
  stop
  fail "$1 does not stay up; its log is in $folder/log"
}

stop() {
  local name pid
  if [ -n "$(running slurmctld)" ] && [ -n "$(running slurmd)" ]; then
    timeout 10 scancel --me 2>/dev/null || true
    for _ in $(seq 60); do
      [ -n "$(timeout 5 squeue -h -t all -O state 2>/dev/null | grep -E 'RUNNING|COMPLETING|PENDING')" ] || break
      sleep 0.5
    done
  fi
  for name in slurmd slurmctld munged; do
    pid=$(running "$name")
    [ -n "$pid" ] || continue
    kill "$pid"
    for _ in $(seq 100); do
      [ -n "$(running "$name")" ] || break
      sleep 0.1
    done
    [ -z "$(running "$name")" ] || kill -9 "$pid"
    say "$name stopped"
  done
}

status() {
  local name pid
  for name in munged slurmctld slurmd; do
    pid=$(running "$name")
    echo "$name: ${pid:-not running}"
  done
  [ -z "$(running slurmctld)" ] || { sinfo; squeue; }
  [ -n "$(running slurmctld)" ] && [ -n "$(running slurmd)" ]
}

case "${1:-}" in
  start | stop | status) "$1" ;;
  *) sed -n '2,/^set/s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
