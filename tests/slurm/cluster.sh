#!/usr/bin/env bash
# A real Slurm cluster on one Debian machine, loopback only: tests/slurm/cluster.sh start | stop
#
# No systemd, no cgroups, no accounting, no network: munged, slurmctld and one slurmd a node, as root, detached with
# setsid. Each one's process id and kernel start time are kept in $DIR/pids, and only a process of which both still
# match is ever signalled. "start" installs slurm-wlm and munge where they are missing.
#
#   SLURM_SN_DIR    folder of the cluster: configuration, spool, logs, pids
#   SLURM_SN_NODES  nodes, each a slurmd of its own on this machine (2)
#   SLURM_SN_CPUS   CPUs that each node claims; more than there are is allowed (nproc)
#   SLURM_SN_MEM    MB that each node claims (90 % of the memory / nodes)
set -euo pipefail

DIR=${SLURM_SN_DIR:?the folder of the cluster}
NODES=${SLURM_SN_NODES:-2}
CPUS=${SLURM_SN_CPUS:-$(nproc)}
MEM=${SLURM_SN_MEM:-$(awk -v n="$NODES" '/^MemTotal/ {print int($2 / 1024 * 0.9 / n)}' /proc/meminfo)}
PORT=16817
HOST=$(hostname -s)
ADDR=$(getent ahostsv4 "$HOST" | awk 'NR == 1 {print $1}' || true)  # what the daemons bind to
MUNGE=$DIR/run/munge.socket
export SLURM_CONF=$DIR/etc/slurm.conf
# SLURM_CONF is not enough: the Snakemake plugin drops SLURM_* variables before its inner srun.
LINK=/etc/slurm/slurm.conf

say() { printf '[cluster.sh] %s\n' "$*" >&2; }
die() { say "ERROR: $*"; exit 1; }
node_names() { seq -f 'node%.0f' "$NODES"; }
born() { sed 's/^.*) //' "/proc/$1/stat" 2>/dev/null | cut -d' ' -f20; }  # start time, field 22 of stat

pid_of() {  # the process id of NAME, if the process that "start" started lives
    local pid start
    read -r pid start 2>/dev/null < "$DIR/pids/$1" && [ "$(born "$pid")" = "$start" ] && echo "$pid"
}

launch() {  # launch NAME COMMAND...
    local name=$1; shift
    pid_of "$name" >/dev/null && return
    setsid "$@" >>"$DIR/log/$name.out" 2>&1 </dev/null &
    echo "$! $(born $!)" > "$DIR/pids/$name"
}

halt() {  # halt NAME: SIGTERM, SIGKILL after 10 s
    local pid i
    if pid=$(pid_of "$1"); then
        kill -TERM "$pid" 2>/dev/null || true
        for i in $(seq 100); do pid_of "$1" >/dev/null || break; sleep 0.1; done
        if pid=$(pid_of "$1"); then kill -KILL "$pid"; fi
    fi
    rm -f "$DIR/pids/$1"
}

wait_for() {  # wait_for NAME COMMAND...: until COMMAND succeeds, 60 s at most
    local name=$1 i; shift
    for i in $(seq 300); do
        "$@" >/dev/null 2>&1 && return
        pid_of "$name" >/dev/null || break
        sleep 0.2
    done
    tail -n 20 "$DIR/log/$name"* >&2
    die "$name does not answer"
}

install_packages() {
    dpkg-query -W slurm-wlm munge >/dev/null 2>&1 && return
    say "installing slurm-wlm and munge"
    local apt=(apt-get -q -y -o DPkg::Lock::Timeout=600)
    if [ ! -e /usr/sbin/policy-rc.d ]; then  # the packages start no daemon of their own
        trap 'rm -f /usr/sbin/policy-rc.d' EXIT
        printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d; chmod +x /usr/sbin/policy-rc.d
    fi
    { "${apt[@]}" update && DEBIAN_FRONTEND=noninteractive "${apt[@]}" install --no-install-recommends slurm-wlm munge
    } >"$DIR/log/apt.out" 2>&1 || { tail -n 20 "$DIR/log/apt.out" >&2; die "apt-get failed"; }
}

write_config() {
    local n port=$((PORT + 1))
    cat > "$SLURM_CONF" <<CONF
ClusterName=local
SlurmctldHost=$HOST($ADDR)
SlurmctldPort=$PORT
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# a requeued job starts when the credentials of the first start have expired, 30 s instead of 120
AuthInfo=socket=$MUNGE,cred_expire=30
CredType=cred/munge
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
# without cgroups; OverMemoryKill, polled every second, is what enforces --mem then
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SlurmdParameters=config_overrides
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0,bf_interval=5
# a job that no node can hold is refused, instead of waiting for ever
EnforcePartLimits=ALL
ReturnToService=2
SlurmdTimeout=15
KillWait=3
# ended jobs stay visible to squeue so long (s): Snakemake looks there
MinJobAge=3600
AccountingStorageType=accounting_storage/none
# a line for every ended job
JobCompType=jobcomp/filetxt
JobCompLoc=$DIR/log/jobcomp.log
StateSaveLocation=$DIR/spool/slurmctld
SlurmdSpoolDir=$DIR/spool/%n
SlurmctldPidFile=$DIR/run/slurmctld.pid
SlurmdPidFile=$DIR/run/slurmd-%n.pid
SlurmctldLogFile=$DIR/log/slurmctld.log
SlurmdLogFile=$DIR/log/slurmd-%n.log
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE DefMemPerCPU=256 State=UP
CONF
    for n in $(node_names); do
        echo "NodeName=$n NodeHostname=$HOST NodeAddr=$ADDR Port=$((port++)) CPUs=$CPUS RealMemory=$MEM State=UNKNOWN"
    done >> "$SLURM_CONF"
    [ ! -e "$LINK" ] || [ "$LINK" -ef "$SLURM_CONF" ] || die "$LINK is there and is not this cluster's; move it away first"
    mkdir -p "$(dirname "$LINK")"; ln -sfn "$SLURM_CONF" "$LINK"
}

start() {
    [ "$(id -u)" = 0 ] || die "run as root"
    case $ADDR in 127.*) ;; *) die "host name $HOST means '$ADDR'; expected '127.0.0.1 $HOST' as first line of /etc/hosts" ;; esac
    [ ${#MUNGE} -lt 100 ] || die "SLURM_SN_DIR is too long for a unix socket"
    local n
    mkdir -p "$DIR"/{etc,run,log,pids,spool/slurmctld}
    for n in $(node_names); do mkdir -p "$DIR/spool/$n"; done
    chmod 755 "$DIR" "$DIR"/{etc,run,log,pids}
    install_packages
    write_config
    [ -s "$DIR/etc/munge.key" ] || (umask 077; head -c 1024 /dev/urandom > "$DIR/etc/munge.key")
    launch munged /usr/sbin/munged --foreground --force --key-file="$DIR/etc/munge.key" --socket="$MUNGE" \
        --pid-file="$DIR/run/munged.pid" --seed-file="$DIR/run/munged.seed" --log-file="$DIR/log/munged.log"
    wait_for munged sh -c "munge -n --socket='$MUNGE' | unmunge --socket='$MUNGE'"
    launch slurmctld /usr/sbin/slurmctld -D -i
    wait_for slurmctld scontrol ping
    for n in $(node_names); do launch "slurmd-$n" /usr/sbin/slurmd -D -N "$n"; done
    for n in $(node_names); do wait_for "slurmd-$n" sh -c "sinfo -h -n $n -o %T | grep -Eqx 'idle|mixed|allocated'"; done
    sinfo -N -o '%N %P %T %c %m'
}

stop() {
    local i
    if pid_of slurmctld >/dev/null; then  # leave no job behind
        timeout 20 squeue -h -o %A 2>/dev/null | sort -u | xargs -r timeout 20 scancel 2>/dev/null || true
        for i in $(seq 100); do [ -z "$(timeout 5 squeue -h 2>/dev/null)" ] && break; sleep 0.2; done
    fi
    for i in "$DIR"/pids/slurmd-*; do [ -e "$i" ] && halt "$(basename "$i")"; done
    halt slurmctld; halt munged
    if [ "$(readlink "$LINK" 2>/dev/null)" = "$SLURM_CONF" ]; then rm -f "$LINK"; fi
}

case "${1:-}" in
    start) start ;;
    stop) stop ;;
    *) sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0" >&2; exit 2 ;;
esac
