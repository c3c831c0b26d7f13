# shellcheck shell=bash
# scripts/bench health: what checking many servers every second costs the requests that pass meanwhile, and how evenly the probes
# go out. One backend with an address for each server, three gateways that take turns, and wrk at a steady pace. Sourced, never run.
#
# shellcheck disable=SC2154  # scripts/bench sets the options and what runs

HEALTH_KINDS=(none loaded health)

health_addresses() { local n; for ((n = 0; n < servers; n++)); do echo "127.77.$((n / 250)).$((n % 250 + 1)):$back_port"; done; }

# write_health_gateway NAME [MODULE]
write_health_gateway() {
    local name=$1 check=''
    if [ "$name" = health ]; then check='health_check interval=1s uri=/health;'; fi
    write_conf "$name" "${@:2}" <<CONF
    upstream many { zone many 4m; keepalive 64; $check
$(health_addresses | sed 's/.*/        server & max_fails=0;/') }
    server {
        listen 127.0.0.1:$gate_port;
        location / { proxy_pass http://many; proxy_http_version 1.1; proxy_set_header Connection ''; }
    }
CONF
    sed -i 's/^worker_processes 1;/worker_processes 2;/; s/worker_connections 2048/worker_connections 4096/' "$work/$name/nginx.conf"
}

# health_cpu WORKER...: nanoseconds of CPU that these have used, all their threads.
health_cpu() {
    local pid
    for pid in "$@"; do cat /proc/"$pid"/task/*/schedstat; done | awk '{ sum += $1 } END { printf "%.0f\n", sum }'
}
# health_memory WORKER...: bytes that the first of them has for itself.
health_memory() { awk '/^Private_(Clean|Dirty)/ { sum += $2 } END { printf "%.0f\n", sum * 1024 }' "/proc/$1/smaps_rollup"; }

# health_round KIND: runs it by itself for a while; adds a line of µs per request, requests per second and p99 in ms.
health_round() {
    local kind=$1 master workers before after
    : >"$work/backend/logs/probes"
    start_nginx "$work/$kind/nginx.conf"
    master=$STARTED
    mapfile -t workers < <(pgrep -P "$master")
    # The first round of probes, and connections that are kept.
    sleep 2
    before=$(health_cpu "${workers[@]}")
    wrk -t2 -c"$health_connections" -d"${seconds}s" --latency -s "$work/paced.lua" "http://127.0.0.1:$gate_port/" >"$work/wrk" 2>&1 || die "wrk failed" "$(cat "$work/wrk")"
    after=$(health_cpu "${workers[@]}")
    awk -v ns="$((after - before))" '
        /^ *99%/ { p99 = $2; unit = p99; gsub(/[0-9.]/, "", unit); sub(/[a-z]+/, "", p99); p99 *= unit == "us" ? 0.001 : unit == "s" ? 1000 : 1 }
        /requests in/ { n = $1; gsub(/[a-z,]/, "", $4); s = $4 }
        /Non-2xx/ { bad = $NF }
        /Socket errors/ { bad = "socket" }
        END { printf "%.3f %.0f %.3f %s\n", ns / 1000 / n, n / s, p99, bad + 0 }' "$work/wrk" >>"$work/kind-$kind"
    health_memory "${workers[@]}" >"$work/memory-$kind"
    end "$master"
}

health_median() { awk -v at="$2" '{ print $at }' "$work/kind-$1" | sort -n | awk '{ v[NR] = $1 } END { print NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'; }

# Probes in each whole second of a round: mean, most, and the ratio.
health_spread() {
    awk '{ n[int($1)]++ } END {
        for (s in n) { if (!first || s < first) first = s; if (s > last) last = s }
        for (s in n) if (s > first + 1 && s < last) { sum += n[s]; k++; if (n[s] > most) most = n[s] }
        if (k) printf "%.0f %d %.2f\n", sum / k, most, most * k / sum }' "$work/backend/logs/probes"
}

bench_health() {
    need wrk "apt-get install wrk"
    local kind round turn
    health_connections=100
    free_ports back_port gate_port
    write_conf backend <<CONF
    log_format probe '\$msec';
    server {
$(health_addresses | sed 's/.*/        listen &;/')
        location / { empty_gif; }
        location = /health { access_log logs/probes probe; return 200; }
    }
CONF
    sed -i 's/worker_connections 2048/worker_connections 16384/' "$work/backend/nginx.conf"
    write_health_gateway none
    write_health_gateway loaded "$MODULE_SO"
    write_health_gateway health "$MODULE_SO"
    # As many requests in a second as are asked for, if the machine can.
    echo "function delay() return math.floor($health_connections * 1000 / $pace) end" >"$work/paced.lua"
    start_nginx "$work/backend/nginx.conf"
    step "$servers servers, each checked every second; $pace requests/s; $rounds rounds of ${seconds} s, nginx $NGINX_VERSION with two workers"
    for ((round = 0; round < rounds; round++)); do
        for ((turn = 0; turn < ${#HEALTH_KINDS[@]}; turn++)); do
            kind=${HEALTH_KINDS[(turn + round) % ${#HEALTH_KINDS[@]}]}
            health_round "$kind"
            if [ "$kind" = health ]; then health_spread >>"$work/spread"; fi
        done
    done
    health_report
}

health_report() {
    local kind cpu p99 none_cpu none_p99
    none_cpu=$(health_median none 1) none_p99=$(health_median none 3)
    printf '%-8s %8s %8s %7s %8s %7s %7s  %s\n' gateway req/s 'CPU µs' ratio 'p99 ms' ratio failed what
    for kind in "${HEALTH_KINDS[@]}"; do
        cpu=$(health_median "$kind" 1) p99=$(health_median "$kind" 3)
        printf '%-8s %8.0f %8.2f %7s %8.2f %7s %7s  %s\n' "$kind" "$(health_median "$kind" 2)" "$cpu" "$(health_ratio "$cpu" "$none_cpu")" \
            "$p99" "$(health_ratio "$p99" "$none_p99")" "$(awk '{ sum += $4 } END { print sum }' "$work/kind-$kind")" "$(health_says "$kind")"
    done
    awk '{ mean += $1; if ($2 > most) most = $2; if ($3 > worst) worst = $3 }
        END { printf "probes    %.0f in a second, %d in the fullest: %.2f times the mean at most\n", mean / NR, most, worst }' "$work/spread"
    awk -v a="$(cat "$work/memory-health")" -v b="$(cat "$work/memory-loaded")" -v n="$servers" \
        'BEGIN { printf "memory    %.0f bytes of a worker for each server, and 96 of shared memory for each check\n", (a - b) / n }'
}

health_ratio() { awk -v a="$1" -v b="$2" 'BEGIN { printf "%.2f", a / b }'; }

health_says() {
    case $1 in
        none) echo 'nginx alone' ;;
        loaded) echo 'this module loaded, no checks' ;;
        health) echo "health_check interval=1s of all servers; CPU with that of the probes" ;;
    esac
}
