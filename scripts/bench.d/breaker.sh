# shellcheck shell=bash
# scripts/bench breaker: what breakers cost a request that is proxied over a kept connection, and what a refusal costs. Three
# gateways, which differ in what they load and configure, one backend, and wrk. Where valgrind is installed, also the
# instructions of a request outside the kernel: they are the same on a machine that does other things. Sourced, never run.
#
# shellcheck disable=SC2154  # scripts/bench sets the options and what runs

BREAKER_KINDS=(none loaded closed rated peer route all open)

# write_breaker_gateway NAME PORT [MODULE]: the same places in all, of names of one length, so that only breakers differ.
write_breaker_gateway() {
    local name=$1 port=$2 lines='' places=''
    # place NAME LINES IN THE UPSTREAM, LINES IN THE LOCATION
    place() {
        [ "$name" = breaker ] || set -- "$1" '' ''
        lines+="upstream $1 { zone $1 128k; server 127.0.0.1:$back_port max_fails=0; server 127.0.0.1:$back_port max_fails=0; keepalive 64; $2 }"$'\n'
        places+="location /$1 { proxy_pass http://$1; proxy_http_version 1.1; proxy_set_header Connection ''; $3 }"$'\n'
    }
    local group='circuit_breaker;' peers='circuit_breaker scope=peer;' own='circuit_breaker own;'
    place closed "$group" ''
    place rated- 'circuit_breaker failure_rate=50% slow_call=1s slow_rate=50%;' ''
    place peer-- "$peers" ''
    place route- '' "$own"
    place all--- "$group $peers" "$own"
    place open-- 'circuit_breaker failures=1 open=1h;' ''
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
        none) echo "http://127.0.0.1:$plain_port/closed" ;;
        loaded) echo "http://127.0.0.1:$loaded_port/closed" ;;
        all) echo "http://127.0.0.1:$breaker_port/all---" ;;
        peer | open) echo "http://127.0.0.1:$breaker_port/$1--" ;;
        rated | route) echo "http://127.0.0.1:$breaker_port/$1-" ;;
        *) echo "http://127.0.0.1:$breaker_port/$1" ;;
    esac
}

# breaker_ns WORKER: nanoseconds of CPU it has used.
breaker_ns() { cut -d' ' -f1 "/proc/$1/schedstat"; }

# breaker_ticks WORKER: clock ticks of CPU it has used outside the kernel.
breaker_ticks() { awk '{ print $14 }' "/proc/$1/stat"; }

# breaker_round KIND WORKER: microseconds of CPU per request.
breaker_round() {
    local before after ticks
    ticks=$(breaker_ticks "$2")
    before=$(breaker_ns "$2")
    wrk -t1 -c16 -d"${seconds}s" "$(breaker_url "$1")" >"$work/wrk" 2>&1 || die "wrk failed" "$(cat "$work/wrk")"
    after=$(breaker_ns "$2")
    awk -v ns="$((after - before))" '/requests in/ { printf "%.3f\n", ns / 1000 / $1 }' "$work/wrk"
    if [ "$1" = none ]; then
        awk -v ticks=$(($(breaker_ticks "$2") - ticks)) '/requests in/ { print ticks, $1 }' "$work/wrk" >>"$work/user"
    fi
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
    # The headers that wrk sends, and no others.
    curl -s -o /dev/null -H 'User-Agent:' -H 'Accept:' "$url?[1001-$((1000 + $2))]"
    end "$counter"
    wait_for 5 not_listening "${port%%/*}"
    awk '/Collected/ { print $NF }' "$work/counted"
}

# breaker_instructions KIND: per request. The middle of three: starting is not the same each time.
breaker_instructions() {
    local few many _
    for _ in 1 2 3; do
        few=$(breaker_counted "$1" 100)
        many=$(breaker_counted "$1" 600)
        echo $(((many - few) / 500))
    done | sort -n | sed -n 2p
}

# breaker_count: the table of instructions, and about how long they take by what nginx alone takes for its own: $1 microseconds.
breaker_count() {
    local kind none cost
    # Whether a request needs another block of memory depends on its length: here none does.
    for kind in plain loaded breaker; do sed -i 's/^http {/http { request_pool_size 16k;/' "$work/$kind/nginx.conf"; done
    none=$(breaker_instructions none)
    printf 'nginx alone: %d instructions in %.2f µs outside the kernel\n' "$none" "$1"
    printf '%-8s %12s %9s %9s  %s\n' breaker instructions '+none' 'about µs' 'what'
    for kind in "${BREAKER_KINDS[@]}"; do
        cost=$(breaker_instructions "$kind")
        awk -v kind="$kind" -v cost="$cost" -v none="$none" -v us="$1" -v says="$(breaker_says "$kind")" \
            'BEGIN { printf "%-8s %12d %+9d %+9.2f  %s\n", kind, cost, cost - none, (cost - none) * us / none, says }'
    done
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
    none=$(breaker_user)
    end_all
    start_nginx "$work/backend/nginx.conf"
    breaker_count "$none"
}

# breaker_user: microseconds per request of what nginx alone did outside the kernel.
breaker_user() {
    awk -v hertz="$(getconf CLK_TCK)" '{ ticks += $1; requests += $2 } END { print ticks / hertz * 1000000 / requests }' "$work/user"
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
