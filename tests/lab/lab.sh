#!/usr/bin/env bash
# The lab: a real Debian host with systemd as PID 1, for tests.
#
#   lab.sh root              prepare the cached root file system (once per package list), print its path
#   lab.sh up DIR            boot a fresh copy of it in DIR, print the pid of its PID 1
#   lab.sh exec DIR -- ARG…  run one command inside a booted lab
#   lab.sh down DIR          power it off and remove DIR
#   lab.sh sweep             remove labs whose owner (MALACHOR_LAB_OWNER at `up`) is gone
#
# It never shares /tmp, /run, /var or /etc with this machine: a systemd that sees them would empty them.
# Exit 77 with a reason on stderr when this machine cannot have a lab.
set -euo pipefail

readonly suite=bookworm
readonly packages=systemd,systemd-sysv,libpam-systemd,dbus,nftables,openssh-server,chrony,procps,iproute2,restic,rsyslog,openssl,ca-certificates,cron,polkitd
readonly recipe=1 # raise when prepare_root changes
cache=${MALACHOR_LAB_CACHE:-${HOME:-/root}/.cache/malachor-lab}
root=$cache/root-$(printf '%s' "$suite $packages $recipe" | sha256sum | cut -c1-12)
readonly cache root
readonly boot_seconds=90

cannot() { echo "lab: $*" >&2; exit 77; }
fail() { echo "lab: $*" >&2; exit 1; }

require() {
  [ "$(id -u)" = 0 ] || cannot "needs root"
  local tool
  for tool in "$@"; do
    command -v "$tool" >/dev/null || cannot "needs $tool (Debian packages: debootstrap systemd-container util-linux)"
  done
}

# The mirror that apt on this machine uses.
mirror() {
  # shellcheck disable=SC2016 # apt expands these
  apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT) $(ORIGIN)' 'Created-By: Packages' 2>/dev/null |
    awk '$3 == "main" && $4 == "Debian" && $2 !~ /-/ { print $1; exit }'
}

proxy() { apt-config shell proxy Acquire::http::Proxy 2>/dev/null | sed -n "s/^proxy='\(.*\)'$/\1/p"; }

# What makes labs repeatable: a fixed machine id, and no timer that changes files on its own.
prepare_root() {
  local timer
  echo 6d616c6163686f7274657374726f6f74 >"$1/etc/machine-id"
  echo lab >"$1/etc/hostname"
  rm -rf "$1"/var/cache/apt/archives/*.deb "$1"/var/lib/apt/lists/*
  for timer in apt-daily apt-daily-upgrade dpkg-db-backup e2scrub_all fstrim logrotate man-db; do
    rm -f "$1/etc/systemd/system/timers.target.wants/$timer.timer"
  done
  mkdir -p "$1/var/log/journal"
}

verb_root() {
  [ ! -e "$root/.ready" ] || { echo "$root"; return; }
  require debootstrap apt-get systemd-nspawn flock
  mkdir -p "$cache"
  exec 9>"$cache/.lock"
  flock 9
  [ ! -e "$root/.ready" ] || { echo "$root"; return; }
  local from half=$root.partial via
  from=$(mirror)
  [ -n "$from" ] || cannot "apt on this machine is configured for no Debian mirror"
  via=$(proxy)
  [ -z "$via" ] || export http_proxy=$via
  rm -rf --one-file-system "$half"
  debootstrap --variant=minbase --include="$packages" "$suite" "$half" "$from" >"$cache/debootstrap.log" 2>&1 ||
    cannot "debootstrap failed: $(tail -n 1 "$cache/debootstrap.log")"
  prepare_root "$half"
  touch "$half/.ready"
  mv "$half" "$root"
  echo "$root"
}

# A lab of its own cgroup, so that two labs at once do not share units.
own_cgroup() {
  local tree
  for tree in /sys/fs/cgroup/systemd /sys/fs/cgroup/unified /sys/fs/cgroup; do
    [ -w "$tree/cgroup.procs" ] || continue
    if mkdir -p "$tree/malachor-lab-$1" 2>/dev/null; then
      echo "$BASHPID" 2>/dev/null >"$tree/malachor-lab-$1/cgroup.procs" || true
    fi
  done
}

drop_cgroup() {
  local tree
  for tree in /sys/fs/cgroup/systemd /sys/fs/cgroup/unified /sys/fs/cgroup; do
    [ ! -d "$tree/malachor-lab-$1" ] || find "$tree/malachor-lab-$1" -depth -type d -exec rmdir {} + 2>/dev/null || true
  done
}

mount_root() {
  mkdir -p "$1/root" "$1/upper" "$1/work"
  mount -t overlay malachor-lab -o "lowerdir=$root,upperdir=$1/upper,workdir=$1/work" "$1/root" 2>/dev/null ||
    cp -a --reflink=auto "$root/." "$1/root/"
  rm -f "$1/root/.ready"
}

inside() {
  local pid=$1
  shift
  nsenter --target "$pid" --all -- /usr/bin/env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    HOME=/root LANG=C.UTF-8 TERM=dumb "$@"
}

leader() { cat "$1/leader" 2>/dev/null || fail "$1 holds no running lab"; }

children() { cat "/proc/$1/task/$1/children" 2>/dev/null || true; }

await_boot() {
  local nspawn=$1 dir=$2 pid state i
  for ((i = 0; i < boot_seconds * 10; i++)); do
    [ -d "/proc/$nspawn" ] || fail "the lab died while booting: $(tail -n 3 "$dir/console" | tr '\n' ' ')"
    read -r pid _ <<<"$(children "$nspawn")" || true
    if [ -n "$pid" ] && [ -S "/proc/$pid/root/run/systemd/private" ]; then
      state=$(inside "$pid" systemctl is-system-running 2>/dev/null || true)
      case $state in running | degraded) echo "$pid" >"$dir/leader"; return ;; esac
    fi
    sleep 0.1
  done
  fail "the lab did not boot within ${boot_seconds}s (last state: ${state:-none})"
}

verb_up() {
  local dir=$1 id
  require systemd-nspawn nsenter mount
  [ ! -e "$dir" ] || fail "$dir exists"
  verb_root >/dev/null
  mkdir -p "$dir"
  dir=$(realpath "$dir")
  id=$(printf '%s' "$dir" | sha256sum | cut -c1-12)
  echo "$id" >"$dir/id"
  echo "${MALACHOR_LAB_OWNER:-}" >"$dir/owner"
  mount_root "$dir"
  (
    own_cgroup "$id"
    exec setsid systemd-nspawn -q -D "$dir/root" -b --machine="lab-$id" --hostname=lab --private-network --register=no --keep-unit \
      --resolv-conf=off --timezone=off --link-journal=no </dev/null >"$dir/console" 2>&1 9>&-
  ) &
  local nspawn=$!
  echo "$nspawn" >"$dir/nspawn"
  (await_boot "$nspawn" "$dir") || { verb_down "$dir"; exit 77; }
  cat "$dir/leader"
}

verb_exec() {
  local dir=$1
  shift
  [ "${1:-}" != -- ] || shift
  inside "$(leader "$dir")" "$@"
}

# PID 1 powers off on SIGRTMIN+4; nspawn follows, or is ended after ten seconds.
stop_lab() {
  local nspawn=$1 pid=$2 i
  [ -z "$pid" ] || kill -s RTMIN+4 "$pid" 2>/dev/null || true
  for ((i = 0; i < 100; i++)); do
    [ -d "/proc/$nspawn" ] || return 0
    sleep 0.1
  done
  kill -KILL "$nspawn" 2>/dev/null || true
  [ -z "$pid" ] || kill -KILL "$pid" 2>/dev/null || true
}

verb_down() {
  local dir=$1 nspawn
  [ -f "$dir/id" ] || fail "$dir is no lab"
  nspawn=$(cat "$dir/nspawn" 2>/dev/null || true)
  [ -z "$nspawn" ] || ! grep -qs systemd-nspawn "/proc/$nspawn/comm" || stop_lab "$nspawn" "$(cat "$dir/leader" 2>/dev/null || true)"
  if mountpoint -q "$dir/root"; then umount "$dir/root" || umount -l "$dir/root"; fi
  drop_cgroup "$(cat "$dir/id")"
  rm -rf --one-file-system "$dir"
}

verb_sweep() {
  local dir owner
  for dir in "$cache"/run/*/; do
    [ -f "$dir/owner" ] || continue
    owner=$(cat "$dir/owner")
    [ -z "$owner" ] || [ -d "/proc/$owner" ] || verb_down "${dir%/}"
  done
}

verb=${1:-}
case $verb in
root | sweep) "verb_$verb" ;;
up | exec | down) [ $# -ge 2 ] || fail "$verb needs a directory"; shift; "verb_$verb" "$@" ;;
*) sed -n '2,9s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
