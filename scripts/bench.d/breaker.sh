# shellcheck shell=bash
# scripts/bench breaker: what breakers cost a request that is proxied over a kept connection, and what a refusal costs. Three
# gateways, which differ in what they load and configure, one backend, and wrk. Where valgrind is installed, also the
# instructions of a request outside the kernel: they are the same on a machine that does other things. Sourced, never run.
#
# shellcheck disable=SC2154  # scripts/bench sets the options and what runs

BREAKER_KINDS=(none loaded closed rated peer route all open)

# write_breaker_gateway NAME PORT [MODULE]: locations /none and the rest, as far as the module is there.
write_breaker_gateway() {
    local name=$1 port=$2 kind lines='' places=''
    # upstream KIND LINES IN THE UPSTREAM, LINES IN THE LOCATION
    place() {
        lines+="upstream $1 { zone $1 128k; server 127.0.0.1:$back_port max_fails=0; server 127.0.0.1:$back_port max_fails=0; keepalive 64; $2 }"$'\n'
        places+="location /$1 { proxy_pass http://$1; proxy_http_version 1.1; proxy_set_header Connection ''; $3 }"$'\n'
    }
    local group='circuit_breaker;' peers='circuit_breaker scope=peer;' own='circuit_breaker own;'
    local rates='circuit_breaker failure_rate=50% slow_call=1s slow_rate=50%;'
    case $name in
        breaker)
            place closed "$group" ''
            place rated "$rates" ''
            place peer "$peers" ''
            place route '' "$own"
            place all "$group $peers" "$own"
            place open 'circuit_breaker failures=1 open=1h;' ''
            ;;
        *) place none '' '' ;;
    esac
    write_conf "$name" "${@:3}" <<CONF
    $lines
    server {
        listen 127.0.0.1:$port;
        $places
    }
CONF
}

breaker_url() {
    case $1 in
        none) echo "http://127.0.0.1:$plain_port/none" ;;
        loaded) echo "http://127.0.0.1:$loaded_port/none" ;;
        *) echo "http://127.0.0.1:$breaker_port/$1" ;;
    esac
}

# breaker_ns WORKER: nanoseconds of CPU it has used.
breaker_ns() { cut -d' ' -f1 "/proc/$1/schedstat"; }

# breaker_round KIND WORKER: microseconds of CPU per request.
breaker_round() {
    local before after
    before=$(breaker_ns "$2")
    wrk -t1 -c16 -d"${seconds}s" "$(breaker_url "$1")" >"$work/wrk" 2>&1 || die "wrk failed" "$(cat "$work/wrk")"
    after=$(breaker_ns "$2")
    awk -v ns="$((after - before))" '/requests in/ { printf "%.3f\n", ns / 1000 / $1 }' "$work/wrk"
}

# The lowest quarter's upper end: whatever else the machine does only adds.
breaker_quartile() { sort -n | awk '{ v[NR] = $1 } END { print v[int((NR + 3) / 4)] }'; }

breaker_gateway() {
    case $1 in none) echo plain ;; loaded) echo loaded ;; *) echo breaker ;; esac
}

not_listening() { ! listening "$1"; }

# breaker_counted KIND REQUESTS: instructions that one process of that gateway needs, from start to end.
breaker_counted() {
    local dir url port counter
    dir=$work/$(breaker_gateway "$1")
    url=$(breaker_url "$1")
    port=${url#http://127.0.0.1:}
    start valgrind --tool=callgrind --callgrind-out-file=/dev/null "$NGINX_BINARY" -p "$dir" -c "$dir/nginx.conf" \
        -e "$dir/logs/error.log" -g 'daemon off; master_process off;' 2>"$work/counted"
    counter=$STARTED
    wait_for 60 listening "${port%%/*}" || die "nginx did not start under valgrind" "$(cat "$work/counted")"
    curl -s -o /dev/null "$url?[1-$2]"
    end "$counter"
    wait_for 5 not_listening "${port%%/*}"
    awk '/Collected/ { print $NF }' "$work/counted"
}

breaker_instructions() {
    local few many
    few=$(breaker_counted "$1" 200)
    many=$(breaker_counted "$1" 1200)
    echo $(((many - few) / 1000))
}

bench_breaker() {
    need wrk "apt-get install wrk"
    local kind round turn none cost
    local -A of
    free_ports back_port plain_port loaded_port breaker_port
    write_conf backend <<CONF
    server { listen 127.0.0.1:$back_port; location / { empty_gif; } location /open { return 502; } }
CONF
    write_breaker_gateway plain "$plain_port"
    write_breaker_gateway loaded "$loaded_port" "$MODULE_SO"
    write_breaker_gateway breaker "$breaker_port" "$MODULE_SO"
    for kind in backend plain loaded breaker; do start_nginx "$work/$kind/nginx.conf"; done
    for kind in "${BREAKER_KINDS[@]}"; do
        of[$kind]=$(worker_of "$(breaker_gateway "$kind")")
        : >"$work/kind-$kind"
        curl -s -o /dev/null "$(breaker_url "$kind")"
    done
    step "CPU of the worker per request in µs (lower quartile of $rounds rounds of ${seconds} s), nginx $NGINX_VERSION, proxied over a kept connection"
    # All kinds take turns, each time from another one on, so that what else the machine does falls on all.
    for ((round = 0; round < rounds; round++)); do
        for ((turn = 0; turn < ${#BREAKER_KINDS[@]}; turn++)); do
            kind=${BREAKER_KINDS[(turn + round) % ${#BREAKER_KINDS[@]}]}
            breaker_round "$kind" "${of[$kind]}" >>"$work/kind-$kind"
        done
    done
    none=$(breaker_quartile <"$work/kind-none")
    printf '%-8s %9s %9s  %s\n' breaker 'CPU µs' '+none' 'what'
    for kind in "${BREAKER_KINDS[@]}"; do
        cost=$(breaker_quartile <"$work/kind-$kind")
        printf '%-8s %9.2f %9s  %s\n' "$kind" "$cost" \
            "$(awk -v a="$cost" -v b="$none" 'BEGIN { printf "%+.2f", a - b }')" "$(breaker_says "$kind")"
    done
    if ! command -v valgrind >/dev/null; then return; fi
    step "instructions per request outside the kernel"
    end_all
    start_nginx "$work/backend/nginx.conf"
    none=$(breaker_instructions none)
    for kind in "${BREAKER_KINDS[@]}"; do
        cost=$(breaker_instructions "$kind")
        printf '%-8s %9d %+9d  %s\n' "$kind" "$cost" $((cost - none)) "$(breaker_says "$kind")"
    done
}

breaker_says() {
    case $1 in
        none) echo 'nginx alone' ;;
        loaded) echo 'this module loaded, no breaker anywhere' ;;
        closed) echo 'circuit_breaker, closed' ;;
        rated) echo '... with failure_rate and slow_rate' ;;
        peer) echo 'circuit_breaker scope=peer, two servers' ;;
        route) echo 'circuit_breaker NAME in the location' ;;
        all) echo 'all three' ;;
        open) echo 'refused' ;;
    esac
}
