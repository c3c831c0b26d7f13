# shellcheck shell=bash
# scripts/bench metrics: what counting costs a request, answered here (gif) and proxied over a kept connection (proxy), and what one
# scrape costs with a thousand servers. Four gateways, which differ in what they load and configure, one backend, and wrk. Where
# valgrind is installed, also the instructions of a request outside the kernel: they are the same on a machine that does other
# things. Sourced, never run.
#
# shellcheck disable=SC2154  # scripts/bench sets the options and what runs

METRICS_KINDS=(none loaded counted zones)
METRICS_PLACES=(gif proxy)
METRICS_SERVERS=1000

# write_metrics_gateway NAME PORT STATUS ZONES [MODULE]
write_metrics_gateway() {
    write_conf "$1" "${@:5}" <<CONF
    upstream back { zone back 128k; server 127.0.0.1:$back_port max_fails=0; server 127.0.0.1:$back_port max_fails=0; keepalive 64; }
    # One block of memory is enough for every kind: with less, some would just need another one, and some just not.
    request_pool_size 16k;
    server {
        listen 127.0.0.1:$2;
        $4
        location = /status { $3 }
        location /gif { ${4//server/location} empty_gif; }
        location /proxy { ${4//server/location} proxy_pass http://back; proxy_http_version 1.1; proxy_set_header Connection ''; }
    }
CONF
}

# A thousand servers in ten groups, all checked and each with a breaker; what they answer does not matter.
write_metrics_crowd() {
    local group server
    {
        for group in {1..10}; do
            echo "upstream crowd$group { zone crowd$group 1m; health_check interval=1h; circuit_breaker; circuit_breaker scope=peer;"
            for ((server = 1; server <= METRICS_SERVERS / 10; server++)); do echo "server 127.$group.0.$server:9;"; done
            echo '}'
        done
        echo "server { listen 127.0.0.1:$crowd_port; location = /status { metrics max_series=1000000; } location = /capped { metrics; } }"
    } | write_conf crowd "$MODULE_SO"
}

metrics_ns() { cut -d' ' -f1 "/proc/$1/schedstat"; }

# metrics_round KIND PLACE: microseconds of CPU of the worker per request.
metrics_round() {
    local before after
    before=$(metrics_ns "${of[$1]}")
    wrk -t1 -c16 -d"${seconds}s" "http://127.0.0.1:${port_of[$1]}/$2" >"$work/wrk" 2>&1 || die "wrk failed" "$(cat "$work/wrk")"
    after=$(metrics_ns "${of[$1]}")
    awk -v ns="$((after - before))" '/requests in/ { printf "%.3f\n", ns / 1000 / $1 }' "$work/wrk"
}

# The lowest quarter's upper end: whatever else the machine does only adds.
metrics_quartile() { sort -n | awk '{ v[NR] = $1 } END { print v[int((NR + 3) / 4)] }'; }

ended_by_poking() { gone "$1" || ! listening "$2"; }

# metrics_counted NAME PORT PATH REQUESTS: instructions that one process of that gateway needs, from start to end.
metrics_counted() {
    local dir=$work/$1 counter
    start valgrind --tool=callgrind --callgrind-out-file=/dev/null "$NGINX_BINARY" -p "$dir" -c "$dir/nginx.conf" \
        -e "$dir/logs/error.log" -g 'daemon off; master_process off;' 2>"$work/callgrind"
    counter=$STARTED
    wait_for 60 listening "$2" || die "nginx did not start under valgrind" "$(cat "$work/callgrind")"
    curl -s -o /dev/null "http://127.0.0.1:$2/$3?[1-$4]"
    # Under valgrind a signal is often there just before the process goes to sleep: a connection wakes it.
    kill -TERM "$counter"
    wait_for 30 ended_by_poking "$counter" "$2" || die "nginx does not end under valgrind"
    wait "$counter" || true
    awk '/Collected/ { print $NF }' "$work/callgrind"
}

# metrics_instructions NAME PORT PATH FEW MANY: of one request.
metrics_instructions() {
    local few many
    few=$(metrics_counted "$1" "$2" "$3" "$4")
    many=$(metrics_counted "$1" "$2" "$3" "$5")
    echo $(((many - few) / ($5 - $4)))
}

metrics_says() {
    case $1 in
        none) echo 'nginx alone, with stub_status' ;;
        loaded) echo 'this module loaded, nothing counted' ;;
        counted) echo 'metrics' ;;
        zones) echo 'metrics, and a status_zone of the server and of the location' ;;
    esac
}

metrics_table() {
    local kind place cost none
    printf '%-6s %-8s %9s %9s  %s\n' answer kind "$1" '+none' 'what'
    for place in "${METRICS_PLACES[@]}"; do
        for kind in "${METRICS_KINDS[@]}"; do
            cost=$("$2" "$kind" "$place")
            if [ "$kind" = none ]; then none=$cost; fi
            printf '%-6s %-8s %9s %9s  %s\n' "$place" "$kind" "$cost" \
                "$(awk -v a="$cost" -v b="$none" -v form="$3" 'BEGIN { printf form, a - b }')" "$(metrics_says "$kind")"
        done
    done
}

metrics_cpu() { metrics_quartile <"$work/kind-$1-$2"; }
metrics_ir() { metrics_instructions "$1" "${port_of[$1]}" "$2" 200 1200; }

# metrics_scrapes PATH: milliseconds of CPU, bytes and series of one scrape of the crowd.
metrics_scrapes() {
    local before after worker scrapes=20
    worker=$(worker_of crowd)
    curl -s -o "$work/scrape" "http://127.0.0.1:$crowd_port/$1"
    before=$(metrics_ns "$worker")
    curl -s -o /dev/null "http://127.0.0.1:$crowd_port/$1?[1-$scrapes]"
    after=$(metrics_ns "$worker")
    awk -v ns="$((after - before))" -v scrapes=$scrapes -v bytes="$(stat -c %s "$work/scrape")" -v series="$(grep -vc '^#' "$work/scrape")" \
        'BEGIN { printf "%.1f ms, %d series, %.1f MB, %.0f ns a series\n", ns / scrapes / 1e6, series, bytes / 1e6, ns / scrapes / series }'
}

bench_metrics() {
    need wrk "apt-get install wrk"
    local kind place round turn
    local -A of port_of
    free_ports back_port crowd_port
    for kind in "${METRICS_KINDS[@]}"; do free_ports "port_of[$kind]"; done
    write_conf backend <<CONF
    server { listen 127.0.0.1:$back_port; location / { empty_gif; } }
CONF
    write_metrics_gateway none "${port_of[none]}" 'stub_status;' ''
    write_metrics_gateway loaded "${port_of[loaded]}" 'stub_status;' '' "$MODULE_SO"
    write_metrics_gateway counted "${port_of[counted]}" 'metrics;' '' "$MODULE_SO"
    write_metrics_gateway zones "${port_of[zones]}" 'metrics;' 'status_zone server;' "$MODULE_SO"
    write_metrics_crowd
    for kind in backend "${METRICS_KINDS[@]}" crowd; do start_nginx "$work/$kind/nginx.conf"; done
    for kind in "${METRICS_KINDS[@]}"; do of[$kind]=$(worker_of "$kind"); done
    step "CPU of the worker per request in µs (lower quartile of $rounds rounds of ${seconds} s), nginx $NGINX_VERSION"
    # All kinds take turns, each time from another one on, so that what else the machine does falls on all.
    for ((round = 0; round < rounds; round++)); do
        for place in "${METRICS_PLACES[@]}"; do
            for ((turn = 0; turn < ${#METRICS_KINDS[@]}; turn++)); do
                kind=${METRICS_KINDS[(turn + round) % ${#METRICS_KINDS[@]}]}
                metrics_round "$kind" "$place" >>"$work/kind-$kind-$place"
            done
        done
    done
    metrics_table 'CPU µs' metrics_cpu '%+.2f'
    step "one scrape with $METRICS_SERVERS servers, all checked and with breakers of their own: CPU of the worker"
    printf '%-24s %s\n' 'all series' "$(metrics_scrapes status)" 'max_series=20000' "$(metrics_scrapes capped)"
    if ! command -v valgrind >/dev/null; then return; fi
    step "instructions per request outside the kernel"
    end_all
    start_nginx "$work/backend/nginx.conf"
    metrics_table instr metrics_ir '%+d'
}
