# shellcheck shell=bash
# scripts/bench lease: four gateways that share one limit, and paced.py. Sourced, never run.
#
# shellcheck disable=SC2154  # scripts/bench sets the options and what runs

LIMIT=1000 BURST=200 # requests per second, and beyond
LOADS=(80 85 90 400) # percent of the limit

# write_gateway NAME PORT SYNC: one with the zones of these ways of `sync`, each at /SYNC.
write_gateway() {
    local name=$1 port=$2 sync zones='' locations='' parameter
    shift 2
    for sync in "$@"; do
        case $sync in
            strict) parameter=sync=strict ;;
            *) parameter="sync=lease lease_time=${sync#lease_}ms" ;;
        esac
        zones+="rate_limit_zone \$arg_k zone=$sync:1m rate=${LIMIT}r/s burst=$BURST redis=main $parameter;"$'\n'
        locations+="location /$sync { rate_limit zone=$sync nodelay; empty_gif; }"$'\n'
    done
    write_conf "$name" "$MODULE_SO" <<CONF
    redis main { server 127.0.0.1:$redis_port; timeout 1s; }
    $zones
    server {
        listen 127.0.0.1:$port;
        $locations
    }
CONF
}

# run SYNC LOAD SHARES: one row. Its key is new, so that nothing is left of the run before.
run() {
    local sync=$1 load=$2 shares=$3 lease=0 calls line
    case $sync in lease_*) lease=${sync#lease_} ;; esac
    runs=$((runs + 1))
    calls=$(redis_calls)
    line=$(python3 "$BENCH/paced.py" --rate $((LIMIT * load / 100)) --seconds "$seconds" --shares "$shares" \
        --path "/$sync?k=run-$runs" --limit "$LIMIT" --burst "$BURST" --lease "$lease" "${ports[@]}")
    calls=$(($(redis_calls) - calls))
    awk -v calls=$calls -v sync="$sync" -v load="$load" -v shares="$shares" '{
        printf "%-10s %5d %%  %-9s %8d %8d %8.4f %8d %8d %8d %8d %8d%s\n", sync, load, shares, $1, $3,
            calls / ($2 + $3), $4, $5, $6, $2, $7, $8 ? sprintf("  %d without an answer", $8) : "" }' <<<"$line"
}

bench_lease() {
    need python3 "apt-get install python3"
    local a b c d ports gateway runs=0 sync load shares ways=(strict lease_50 lease_100)
    free_ports a b c d
    ports=("$a" "$b" "$c" "$d")
    write_gateway probe "$a" "${ways[@]}"
    if ! accepted probe; then
        warn "no rows of leases, only of what they are compared with: $refused"
        ways=(strict)
    fi
    for gateway in "${ports[@]}"; do
        write_gateway "gateway-$gateway" "$gateway" "${ways[@]}"
        start_nginx "$work/gateway-$gateway/nginx.conf"
    done
    step "four gateways, one limit of ${LIMIT}r/s burst=$BURST, $seconds s each; load in % of the limit, its share per gateway;" \
        "wrong: refused although there was room; 1 s: most that passed within a second"
    printf '%-10s %7s  %-9s %8s %8s %8s %8s %8s %8s %8s %8s\n' sync load shares offered refused calls wrong '1 s' bound passed bound
    for sync in "${ways[@]}"; do
        for load in "${LOADS[@]}"; do
            for shares in 1,1,1,1 97,1,1,1; do run "$sync" "$load" "$shares"; done
        done
    done
}
