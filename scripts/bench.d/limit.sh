# shellcheck shell=bash
# scripts/bench limit: three gateways, which differ in what they load, and wrk. Sourced, never run.
#
# shellcheck disable=SC2154  # scripts/bench sets the options and what runs

KINDS=(none limit_req loaded off lease strict strict_keys lua lua_keys limit_req_over over lua_over)

# Far beyond what a machine can send: a limit that looks at every request and refuses none.
RATE='rate=1000000r/s burst=100000'

write_plain() {
    write_conf plain <<CONF
    limit_req_zone \$binary_remote_addr zone=core:1m rate=100000r/s;
    limit_req_zone \$binary_remote_addr zone=over:1m rate=10r/s;
    server {
        listen 127.0.0.1:$plain_port;
        location /none { empty_gif; }
        location /limit_req { limit_req zone=core burst=100000 nodelay; empty_gif; }
        location /limit_req_over { limit_req zone=over nodelay; empty_gif; }
    }
CONF
}

# write_sluice NAME [EXTRA ZONES [EXTRA LOCATIONS]]
write_sluice() {
    write_conf "$1" "$MODULE_SO" <<CONF
    redis main { server 127.0.0.1:$redis_port; timeout 1s; }
    rate_limit_zone \$binary_remote_addr zone=off:1m $RATE;
    rate_limit_zone \$binary_remote_addr zone=strict:1m $RATE redis=main;
    rate_limit_zone \$arg_k zone=strict_keys:1m $RATE redis=main;
    rate_limit_zone \$binary_remote_addr zone=over:1m rate=10r/s redis=main;
    ${2:-}
    server {
        listen 127.0.0.1:$sluice_port;
        location /loaded { empty_gif; }
        location /off { rate_limit zone=off nodelay; empty_gif; }
        location /strict { rate_limit zone=strict nodelay; empty_gif; }
        location /strict_keys { rate_limit zone=strict_keys nodelay; empty_gif; }
        location /over { rate_limit zone=over nodelay; empty_gif; }
        ${3:-}
    }
CONF
}

# The modules of Debian's nginx lie where it was configured to look for them.
write_lua() {
    local modules
    modules=$("$NGINX_BINARY" -V 2>&1 | sed -n 's|.*--modules-path=\([^ ]*\).*|\1|p')
    write_conf lua "$modules/ndk_http_module.so" "$modules/ngx_http_lua_module.so" <<CONF
    lua_package_path "$BENCH/?.lua;/usr/share/lua/5.1/?.lua;;";
    init_by_lua_block { peer = require("peer").new("127.0.0.1", $redis_port) }
    server {
        listen 127.0.0.1:$lua_port;
        location /lua { access_by_lua_block { peer:limit("a:" .. ngx.var.binary_remote_addr, 1000000, 100000) } empty_gif; }
        location /lua_keys { access_by_lua_block { peer:limit("k:" .. ngx.var.arg_k, 1000000, 100000) } empty_gif; }
        location /lua_over { access_by_lua_block { peer:limit("o:" .. ngx.var.binary_remote_addr, 10, 0) } empty_gif; }
    }
CONF
}

drop_kinds() {
    local kind kept=()
    for kind in "${kinds[@]}"; do case " $* " in *" $kind "*) ;; *) kept+=("$kind") ;; esac; done
    kinds=("${kept[@]}")
}

# Starts the gateways; leaves out what cannot be had here.
start_gateways() {
    free_ports plain_port sluice_port lua_port
    write_plain
    start_nginx "$work/plain/nginx.conf"
    write_sluice sluice "rate_limit_zone \$binary_remote_addr zone=lease:1m $RATE redis=main sync=lease;" \
        'location /lease { rate_limit zone=lease nodelay; empty_gif; }'
    if ! accepted sluice; then
        warn "no row \"lease\": $refused"
        drop_kinds lease
        write_sluice sluice
    fi
    start_nginx "$work/sluice/nginx.conf"
    write_lua
    if ! accepted lua; then
        warn "no rows of the Lua peer: ${refused:-nginx does not load it}" \
            "(it needs Debian's nginx and: apt-get install libnginx-mod-http-lua lua-nginx-redis)"
        drop_kinds lua lua_keys lua_over
        return
    fi
    start_nginx "$work/lua/nginx.conf"
}

gateway_of() {
    case $1 in
        none | limit_req*) echo plain ;;
        lua*) echo lua ;;
        *) echo sluice ;;
    esac
}

# url KIND
url() {
    local gateway
    gateway=$(gateway_of "$1")_port
    echo "http://127.0.0.1:${!gateway}/$1?k=1"
}

# behaves KIND: does it answer what it is there to answer? Not at once for what is over a limit: the first requests are not.
behaves() {
    local status=200
    case $1 in limit_req_over) status=503 ;; *over) status=429 ;; esac
    wait_for 5 answers "$1" $status ||
        die "\"$1\" does not answer $status" "$(cat "$work/$(gateway_of "$1")/logs/error.log")"
}
answers() { [ "$(curl -s -o /dev/null --max-time 5 -w '%{http_code}' "$(url "$1")")" = "$2" ]; }

# cpu PID [THREAD]: nanoseconds of CPU that a process, or its threads of that name, have used.
cpu() {
    local task total=0 ns
    for task in /proc/"$1"/task/*; do
        [ -z "${2:-}" ] || [ "$(cat "$task/comm")" = "$2" ] || continue
        read -r ns _ <"$task/schedstat"
        total=$((total + ns))
    done
    echo $total
}

# load KIND CONNECTIONS SECONDS: wrk; with keys of their own where the kind says so.
load() {
    local keys=()
    case $1 in *_keys) keys=(-s "$BENCH/keys.lua") ;; esac
    wrk -t1 -c"$2" -d"$3s" --latency "${keys[@]}" "$(url "$1")" >"$work/wrk" 2>&1 ||
        die "wrk failed" "$(cat "$work/wrk")"
}

# one KIND CONNECTIONS: microseconds of CPU per request of nginx, of its I/O thread, of Redis; calls of Redis per request;
# milliseconds p50 and p99; requests per second; answers that were not 2xx.
one() {
    local pid before after
    pid=${workers[$(gateway_of "$1")]}
    before="$(cpu "$pid") $(cpu "$pid" sluice-io) $(cpu "$redis_pid") $(redis_calls)"
    load "$1" "$2" "$seconds"
    after="$(cpu "$pid") $(cpu "$pid" sluice-io) $(cpu "$redis_pid") $(redis_calls)"
    awk -v before="$before" -v after="$after" '
        function ms(t) { return t ~ /us$/ ? t / 1000 : t ~ /ms$/ ? t + 0 : t * 1000 }
        function per(i) { return (b[i] - a[i]) / count }
        BEGIN { split(before, a); split(after, b) }
        $1 == "50%" { p50 = ms($2) } $1 == "99%" { p99 = ms($2) } /requests in/ { count = $1 }
        /Requests\/sec/ { rate = $2 } /Non-2xx/ { other = $NF }
        END {
            if (!count) exit 1
            printf "%.2f %.2f %.2f %.4f %.3f %.3f %.0f %d\n", per(1) / 1000, per(2) / 1000, per(3) / 1000, per(4), p50, p99, rate, other
        }' "$work/wrk" || die "wrk measured nothing" "$(cat "$work/wrk")"
}

# medians FILE: of each column.
medians() {
    local column
    for column in 1 2 3 4 5 6 7 8; do
        cut -d' ' -f$column "$1" | sort -n | awk '{ v[NR] = $1 } END { print (v[int((NR + 1) / 2)] + v[int(NR / 2) + 1]) / 2 }'
    done | paste -sd' '
}

# Everything at one number of connections, the kinds taking turns.
measure() {
    local kind round
    for kind in "${kinds[@]}"; do : >"$work/$kind.$1"; done
    for ((round = 0; round < rounds; round++)); do
        for kind in "${kinds[@]}"; do one "$kind" "$1" >>"$work/$kind.$1"; done
    done
    for kind in "${kinds[@]}"; do
        echo "$1 $kind $(medians "$work/$kind.$1")" >>"$work/results"
    done
}

# The results of one number of connections as rows of the table.
print_rows() {
    awk -v c="$1" '
        $1 == c && $2 == "none" { none = $3 }
        $1 == c {
            passing = $2 !~ /over$/
            printf "%5d  %-15s %7.2f %+7.2f %7.2f %7.2f %9.4f %8.3f %8.2f %8d%s\n", $1, $2, $3, $3 - none, $4, $5, $6, $7, $8, $9,
                passing && $10 ? sprintf("  %d were refused", $10) : ""
        }' "$work/results"
}

bench_limit() {
    need wrk "apt-get install wrk"
    [ "$draw" = no ] || need python3 "apt-get install python3"
    if [ -n "$only" ]; then read -ra kinds <<<"$only"; else kinds=("${KINDS[@]}"); fi
    local -A workers
    local redis_pid name count
    start_gateways
    redis_pid=$(redis-cli -p "$redis_port" info server | sed -n 's/^process_id:\([0-9]*\).*/\1/p')
    for name in plain sluice lua; do
        if [ -s "$work/$name/nginx.pid" ]; then workers[$name]=$(worker_of $name); fi
    done
    for name in "${kinds[@]}"; do
        behaves "$name"
        load "$name" 16 1 # what compiles or allocates at first use has done so
    done
    step "per request: µs of CPU (nginx: all threads of its one worker; io: the I/O thread's part), calls of Redis, latency;" \
        "medians of $rounds rounds of $seconds s, nginx $NGINX_VERSION"
    printf '%5s  %-15s %7s %7s %7s %7s %9s %8s %8s %8s\n' conns limiter nginx +none io redis calls 'p50 ms' 'p99 ms' req/s
    for count in $connections; do
        measure "$count"
        print_rows "$count"
    done
    [ "$draw" = no ] || draw_picture
}

draw_picture() {
    grep -q '^64 none ' "$work/results" || die "--draw needs the row \"none\" at 64 connections"
    mkdir -p docs
    python3 "$BENCH/picture.py" 64 <"$work/results" >docs/bench-limit.svg.new
    mv docs/bench-limit.svg.new docs/bench-limit.svg
    say "docs/bench-limit.svg"
}
