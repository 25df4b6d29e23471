#!/usr/bin/env bash
# Shows the settings that a latency host should have and those of this one; changes nothing without --apply.
set -euo pipefail

usage() {
  cat <<'TEXT'
Usage: scripts/tune-host.sh [--apply | --undo] [--cores CORES]

Without a flag: a table of settings, what they are and what they should be. Nothing is changed.

  --apply        sets what can be set while the host runs (as root), and keeps the old values
  --undo         restores the values kept by --apply
  --cores CORES  cores for server and load, such as 2-5: --apply moves interrupts off them
  --help         this text

The old values are kept in /var/lib/midge-tune-host (or in the directory named by MIDGE_TUNE_STATE).
Isolating cores needs the kernel's command line and a reboot: the script only says how.
TEXT
}

fail() {
  echo "tune-host.sh: $1" >&2
  exit 1
}

mode=show
cores=""
while [ $# -gt 0 ]; do
  case "$1" in
    --help) usage; exit 0 ;;
    --apply) mode=apply; shift ;;
    --undo) mode=undo; shift ;;
    --cores)
      [ $# -ge 2 ] || fail "--cores needs a value"
      [[ "$2" =~ ^[0-9]+(-[0-9]+)?(,[0-9]+(-[0-9]+)?)*$ ]] || fail "'$2' is no list of cores, as in 2-5,8"
      cores="$2"
      shift 2
      ;;
    *) fail "unknown option '$1' (see --help)" ;;
  esac
done

state="${MIDGE_TUNE_STATE:-/var/lib/midge-tune-host}"
saved="$state/saved"
limits=/etc/security/limits.d/midge.conf
limits_wanted='# Open files and locked memory for a NATS server with many connections.
* soft nofile 1048576
* hard nofile 1048576
* soft memlock unlimited
* hard memlock unlimited'

# In `always [madvise] never` the marked word is the value.
value_of() {
  sed 's/.*\[\(.*\)\].*/\1/' "$1"
}

# `--apply` notes each file with its old value, one pair of lines each, before it writes.
write_value() {
  local file="$1" value="$2" old
  old="$(value_of "$file")"
  [ "$old" != "$value" ] || return 0
  printf '%s\n%s\n' "$file" "$old" >>"$saved"
  if (echo "$value" >"$file") 2>/dev/null; then
    echo "set $file: $old -> $value"
  else
    echo "cannot set $file: the kernel refuses" >&2
  fi
}

# Reads a setting and shows it with the value it should have; with --apply it is set.
setting() {
  local name="$1" file="$2" wanted="$3" why="$4" current mark
  if [ ! -r "$file" ]; then
    printf '%-28s %-22s %-12s %s\n' "$name" "not on this host" "$wanted" "$why"
    return 0
  fi
  current="$(value_of "$file")"
  if [[ "$wanted" =~ ^[0-9]+$ && "$current" =~ ^[0-9]+$ && "$why" == at\ least* ]]; then
    [ "$current" -ge "$wanted" ] && mark=ok || mark="$wanted"
  else
    [ "$current" = "$wanted" ] && mark=ok || mark="$wanted"
  fi
  printf '%-28s %-22s %-12s %s\n' "$name" "$current" "$mark" "$why"
  if [ "$mode" = apply ] && [ "$mark" != ok ]; then
    write_value "$file" "$wanted"
  fi
}

# Shows a setting for information only.
shown() {
  local value="not on this host"
  [ ! -r "$2" ] || value="$(tr --squeeze-repeats '\t' ' ' <"$2")"
  printf '%-28s %-22s\n' "$1" "$value"
}

# True when core $1 is in the list $2.
in_list() {
  local core="$1" part first last
  local IFS=,
  for part in $2; do
    first="${part%-*}"
    last="${part#*-}"
    if [ "$core" -ge "$first" ] && [ "$core" -le "$last" ]; then return 0; fi
  done
  return 1
}

undo() {
  [ -s "$saved" ] || [ -e "$state/limits-made" ] || fail "nothing to undo: no values are kept in $state"
  local -a lines=()
  [ ! -s "$saved" ] || mapfile -t lines <"$saved"
  local index
  # Backwards, so that the oldest value of a file is the last to be written.
  for ((index = ${#lines[@]} - 2; index >= 0; index -= 2)); do
    # What the kernel refused to set needs no restoring.
    if [ "$(value_of "${lines[index]}")" = "${lines[index + 1]}" ]; then continue; fi
    if (echo "${lines[index + 1]}" >"${lines[index]}") 2>/dev/null; then
      echo "restored ${lines[index]}: ${lines[index + 1]}"
    else
      echo "cannot restore ${lines[index]}: the kernel refuses" >&2
    fi
  done
  if [ -e "$state/limits-made" ]; then
    rm -f "$limits" "$state/limits-made"
    echo "removed $limits"
  fi
  rm -f "$saved"
  rmdir "$state" 2>/dev/null || true
}

if [ "$mode" != show ] && [ "$(id -u)" -ne 0 ]; then
  fail "--$mode needs root"
fi
if [ "$mode" = undo ]; then
  undo
  exit 0
fi
if [ "$mode" = apply ]; then
  mkdir -p "$state"
  touch "$saved"
fi

printf '%-28s %-22s %-12s %s\n' setting "is" "should be" "why"
for governor in /sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor; do
  core="${governor#/sys/devices/system/cpu/}"
  core="${core%%/*}"
  setting "governor ${core%%\[*}" "$governor" performance "a core that sleeps or slows down wakes up late"
done
setting "transparent huge pages" /sys/kernel/mm/transparent_hugepage/enabled madvise \
  "background merging stalls a process"
setting "huge page defragmentation" /sys/kernel/mm/transparent_hugepage/defrag madvise "as above"
setting "largest receive buffer" /proc/sys/net/core/rmem_max 16777216 "at least: bytes"
setting "largest send buffer" /proc/sys/net/core/wmem_max 16777216 "at least: bytes"
setting "listen backlog" /proc/sys/net/core/somaxconn 4096 "at least: many clients at once"
setting "TCP congestion control" /proc/sys/net/ipv4/tcp_congestion_control cubic \
  "bbr paces the loopback: half the throughput"
setting "open files of the host" /proc/sys/fs/nr_open 1048576 "at least: a descriptor per connection"
setting "NUMA balancing" /proc/sys/kernel/numa_balancing 0 "moves memory under a pinned thread"
setting "scheduler autogroups" /proc/sys/kernel/sched_autogroup_enabled 0 \
  "else nice and idle builds of other sessions still take a core"
setting "timer migration" /proc/sys/kernel/timer_migration 0 "other cores' timers on busy ones"
shown "TCP receive buffer" /proc/sys/net/ipv4/tcp_rmem
shown "TCP send buffer" /proc/sys/net/ipv4/tcp_wmem
if [ -r /proc/sys/kernel/io_uring_disabled ]; then
  setting "io_uring disabled" /proc/sys/kernel/io_uring_disabled 0 "Midge falls back to epoll without it"
fi

echo
echo "open files of this shell: $(ulimit -Sn) (hard $(ulimit -Hn)), locked memory: $(ulimit -l) KiB"
if [ -e "$limits" ]; then
  echo "limits of new logins: $limits is there"
elif [ "$mode" = apply ] && [ -d "$(dirname "$limits")" ]; then
  echo "$limits_wanted" >"$limits"
  touch "$state/limits-made"
  echo "made $limits: holds for new logins; a service needs LimitNOFILE= and LimitMEMLOCK= of its own"
else
  echo "limits of new logins: --apply makes $limits"
fi

isolated="$(cat /sys/devices/system/cpu/isolated 2>/dev/null || true)"
echo "isolated cores: ${isolated:-none}"
if [ -z "$isolated" ]; then
  example="${cores:-2-5}"
  echo "  on the kernel's command line, then restart: isolcpus=$example nohz_full=$example rcu_nocbs=$example"
fi
if command -v pgrep >/dev/null && pgrep -x irqbalance >/dev/null; then
  echo "irqbalance runs and moves interrupts back: stop it while measuring"
fi

if [ -n "$cores" ]; then
  others=()
  for ((core = 0; core < $(nproc --all); core++)); do
    in_list "$core" "$cores" || others+=("$core")
  done
  [ "${#others[@]}" -gt 0 ] || fail "--cores leaves no core for interrupts"
  list="$(IFS=,; echo "${others[*]}")"
  on_cores=0
  for interrupt in /proc/irq/[0-9]*/smp_affinity_list; do
    [ -r "$interrupt" ] || continue
    current="$(cat "$interrupt")"
    [ "$current" != "$list" ] || continue
    on_cores=$((on_cores + 1))
    [ "$mode" != apply ] || write_value "$interrupt" "$list"
  done
  echo "interrupts that may run on other cores than $list: $on_cores"
else
  echo "interrupts: give --cores to see and move those that run on the cores of server and load"
fi
if [ "$mode" = show ]; then
  echo
  echo "nothing was changed; --apply sets what differs, --undo restores it"
fi
