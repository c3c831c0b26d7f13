# shellcheck shell=bash
# What every script here shares: progress, ports, waiting, processes that always end. Sourced, never run.
# Progress goes to stderr, so that a script's last line on stdout can be its result.

shopt -s inherit_errexit
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

if [ -t 2 ]; then
    BOLD=$'\e[1m' DIM=$'\e[2m' RED=$'\e[31m' GREEN=$'\e[32m' YELLOW=$'\e[33m' PLAIN=$'\e[0m'
else
    # shellcheck disable=SC2034  # the scripts that source this use them
    BOLD='' DIM='' RED='' GREEN='' YELLOW='' PLAIN=''
fi

step() { printf '%s==> %s%s\n' "$BOLD" "$*" "$PLAIN" >&2; }
say() { printf '    %s\n' "$*" >&2; }
warn() { printf '%swarning:%s %s\n' "$YELLOW" "$PLAIN" "$*" >&2; }

# die MESSAGE [WHAT TO DO]
die() {
    printf '%serror:%s %s\n' "$RED" "$PLAIN" "$1" >&2
    if [ $# -gt 1 ]; then printf '       %s\n' "${@:2}" >&2; fi
    exit 1
}

# usage SCRIPT: the comment block at the head of a script, without its marks.
usage() { sed -n '2,/^[^#]/{/^# shellcheck/d; s/^# \{0,1\}//p}' "$1"; }

# need TOOL [WHERE IT COMES FROM]
need() { command -v "$1" >/dev/null || die "$1 is not installed" "${2:-run scripts/setup}"; }

# at_least VERSION MINIMUM
at_least() { [ "$(printf '%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]; }

# need_rust: a cargo that Cargo.toml accepts.
need_rust() {
    local minimum have
    # A fresh rustup puts cargo here, and only a new login shell would have it on PATH.
    if ! command -v cargo >/dev/null && [ -x "$HOME/.cargo/bin/cargo" ]; then PATH=$HOME/.cargo/bin:$PATH; fi
    minimum=$(sed -n 's/^rust-version *= *"\([^"]*\)".*/\1/p' "$ROOT/Cargo.toml")
    command -v cargo >/dev/null ||
        die "cargo is not installed" "install Rust $minimum or newer with rustup (a distribution's own is often older)"
    have=$(cd "$ROOT" && cargo --version | sed 's/^cargo \([0-9.]*\).*/\1/')
    at_least "$have" "$minimum" ||
        die "cargo $have is too old: this module needs Rust $minimum or newer" "rustup update stable"
}

# listening PORT [ADDRESS]: does something accept connections there?
listening() { (exec 3<>"/dev/tcp/${2:-127.0.0.1}/$1") 2>/dev/null; }

PORTS_GIVEN=' '
# free_ports NAME...: puts a free loopback port into each variable. Below 32768, where clients' own ports begin.
free_ports() {
    local _name _port _tries=0 # not names that a caller may ask for
    for _name in "$@"; do
        while :; do
            _port=$((20000 + RANDOM % 12000))
            _tries=$((_tries + 1))
            [ $_tries -le 2000 ] || die "no free port on 127.0.0.1 between 20000 and 32000"
            case $PORTS_GIVEN in *" $_port "*) continue ;; esac
            listening "$_port" || break
        done
        PORTS_GIVEN="$PORTS_GIVEN$_port "
        printf -v "$_name" %s "$_port"
    done
}

# now_ms: monotonic enough for deadlines here.
now_ms() { local t=${EPOCHREALTIME/[.,]/}; echo $((t / 1000)); }

# wait_for SECONDS COMMAND...: polls until the command succeeds; fails at the deadline.
wait_for() {
    local deadline=$(($(now_ms) + $1 * 1000))
    shift
    until "$@"; do
        [ "$(now_ms)" -lt $deadline ] || return 1
        sleep 0.03
    done
}

# --- processes ---------------------------------------------------------------------------------------------------------
OWNED=()
# start COMMAND...: in the background, ended by end_all; STARTED is its id. Dies with this script, even on kill -9.
start() {
    if command -v setpriv >/dev/null; then set -- setpriv --pdeathsig TERM "$@"; fi
    "$@" &
    STARTED=$!
    OWNED+=("$STARTED")
}

running() { kill -0 "$1" 2>/dev/null; }
gone() { ! running "$1"; }

end() {
    running "$1" || return 0
    kill -TERM "$1" 2>/dev/null || true
    kill -CONT "$1" 2>/dev/null || true # were it stopped, it would never see the other
    wait_for 5 gone "$1" || kill -KILL "$1" 2>/dev/null || true
    wait "$1" 2>/dev/null || true
}

# end_all: last started first.
end_all() {
    local i
    for ((i = ${#OWNED[@]} - 1; i >= 0; i--)); do end "${OWNED[i]}"; done
    OWNED=()
}

# --- parts -------------------------------------------------------------------------------------------------------------
# start_redis DIR PORT: nothing on disk, loopback only.
start_redis() {
    need redis-server
    mkdir -p "$1"
    start redis-server --port "$2" --bind 127.0.0.1 --dir "$1" --save '' --appendonly no --daemonize no \
        --logfile "$1/redis.log"
    wait_for 10 redis_answers "$2" || die "redis-server does not answer on 127.0.0.1:$2" "see $1/redis.log"
}
redis_answers() { [ "$(redis-cli -h 127.0.0.1 -p "$1" ping 2>/dev/null)" = PONG ]; }

# localise FILE DIR [FROM=TO...]: one of nginx-conf/ made to run from DIR, with this build's module (MODULE_SO), and logs,
# temporary files and certificates inside DIR. FROM=TO replaces addresses (ADDRESS:PORT); a plain `listen PORT` is
# 127.0.0.1:PORT, and IPv6 listeners go, as not every machine has any. Prints the path of the result.
localise() {
    local out=$2/${1##*/} dir=$2 pair edits=()
    mkdir -p "$dir/logs" "$dir/temp"
    chmod 755 "$dir"
    for pair in "${@:3}"; do edits+=(-e "s#\\<${pair%%=*}\\>#${pair#*=}#g"); done
    sed -e "s#^load_module .*#load_module $MODULE_SO;#" \
        -e '/^user /d; /^pid /d; /^worker_rlimit_nofile /d; /^ *listen \[::\]/d' \
        -e 's#^\( *listen \)\([0-9]*\)\([ ;]\)#\1127.0.0.1:\2\3#' \
        -e "s#/var/log/nginx/#$dir/logs/#; s#/etc/letsencrypt/live/[^/]*/#$dir/#" \
        -e "s#^http {#pid $dir/nginx.pid;\n\n&\n$(printf '    %s_temp_path temp/%s;\\n' client_body body proxy proxy \
            fastcgi fastcgi uwsgi uwsgi scgi scgi)#" \
        "$1" | sed "${edits[@]}" -e '' >"$out"
    if grep -q 'include mime.types' "$out"; then mime_types >"$dir/mime.types"; fi
    if grep -q '^ *ssl_certificate ' "$out"; then self_signed "$dir"; fi
    echo "$out"
}

# listeners FILE: the addresses it listens on, as localise leaves them.
listeners() { sed -n 's#^ *listen \(127\.0\.0\.1:\)\{0,1\}\([0-9][0-9]*\)[ ;].*#127.0.0.1:\2#p' "$1" | sort -u; }

mime_types() { if [ -f /etc/nginx/mime.types ]; then cat /etc/nginx/mime.types; else cat "$NGINX_SOURCE_DIR/conf/mime.types"; fi; }

self_signed() {
    [ -f "$1/privkey.pem" ] && return
    need openssl
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost \
        -keyout "$1/privkey.pem" -out "$1/fullchain.pem" 2>"$1/openssl.log" || die "openssl made no certificate" "see $1/openssl.log"
    cp "$1/fullchain.pem" "$1/chain.pem"
}

# start_nginx CONF: in the foreground of its own process; waits until it has written its pid file.
start_nginx() {
    local dir
    dir=$(dirname "$1")
    start "$NGINX_BINARY" -p "$dir" -c "$1" -e "$dir/logs/error.log" -g 'daemon off;' 2>"$dir/logs/stderr.log"
    wait_for 10 up_or_gone "$STARTED" "$dir/nginx.pid"
    running "$STARTED" ||
        die "nginx did not start with $1" "$(tail -n 3 "$dir/logs/error.log" "$dir/logs/stderr.log" 2>/dev/null)"
}
up_or_gone() { [ -s "$2" ] || gone "$1"; }
