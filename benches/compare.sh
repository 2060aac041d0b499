#!/usr/bin/env bash
# Throughput, latency and CPU per command of pointsman (one worker), HAProxy (mode tcp, one thread) and Redis itself, in
# turns on this machine; prints Markdown, medians over the rounds. Needs redis-server, redis-benchmark and haproxy.
#
#   benches/compare.sh [ROUNDS]        POINTSMAN=path/to/binary (default target/release/pointsman)
set -euo pipefail
cd "$(dirname "$0")/.."
rounds=${1:-5}
pointsman=${POINTSMAN:-target/release/pointsman}
dir=$(mktemp -d)
pids=()
finish() {
    kill "${pids[@]}" 2>/dev/null || true
    wait 2>/dev/null || true
    rm -rf "$dir"
}
trap finish EXIT

free_port() { # ports below the ephemeral range, so that no outgoing connection takes one first
    local port
    while port=$((RANDOM % 12000 + 20000)); do
        (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || { echo "$port"; return; }
    done
}
await() { # until the port answers PING
    for _ in $(seq 200); do
        [ "$(redis-cli -p "$1" ping 2>/dev/null)" = PONG ] && return
        sleep 0.05
    done
    echo "nothing answers on port $1" >&2
    exit 1
}

redis_port=$(free_port)
redis-server --port "$redis_port" --bind 127.0.0.1 --save '' --appendonly no --dir "$dir" >/dev/null &
redis_pid=$! pids+=($!)
await "$redis_port"

haproxy_port=$(free_port)
cat >"$dir/haproxy.cfg" <<CFG
global
    nbthread 1
    maxconn 4096
defaults
    mode tcp
    timeout connect 1s
    timeout client 1m
    timeout server 1m
listen redis
    bind 127.0.0.1:$haproxy_port
    server redis 127.0.0.1:$redis_port
CFG
haproxy -db -f "$dir/haproxy.cfg" >/dev/null 2>&1 &
haproxy_pid=$! pids+=($!)
await "$haproxy_port"

pointsman_port=$(free_port)
"$pointsman" run --master "127.0.0.1:$redis_port" --service bench --listen "127.0.0.1:$pointsman_port" --workers 1 \
    >/dev/null 2>&1 &
pointsman_pid=$! pids+=($!)
await "$pointsman_port"

cpu_ms() { # user + system time of a process in ms
    awk -v hz="$(getconf CLK_TCK)" '{ sub(/.*\) /, ""); print ($12 + $13) * 1000 / hz }' "/proc/$1/stat"
}
# name, requests, arguments of redis-benchmark
rows=(
    "GET, 50 clients|200000|-t get -c 50"
    "SET, 50 clients|200000|-t set -c 50"
    "GET, 50 clients, pipeline 16|1000000|-t get -c 50 -P 16"
    "SET, 50 clients, pipeline 16|1000000|-t set -c 50 -P 16"
    "GET, 1,000 clients|200000|-t get -c 1000"
    "GET, 1 client|50000|-t get -c 1"
    "SET 16 KiB, 50 clients|50000|-t set -c 50 -d 16384"
    "GET 16 KiB, 50 clients|50000|-t get -c 50 -d 16384"
)
measure() { # name pid port requests arguments: one line "rps p50 p99 cpu-us-per-command redis-cpu-us-per-command"
    local pid=$2 port=$3 n=$4 before redis_before after redis_after line
    shift 4
    before=$(cpu_ms "$pid") redis_before=$(cpu_ms "$redis_pid")
    line=$(redis-benchmark -p "$port" -n "$n" --csv -r 1000 "$@" | tail -n 1 | tr -d '"')
    after=$(cpu_ms "$pid") redis_after=$(cpu_ms "$redis_pid")
    awk -F, -v n="$n" -v a="$before" -v b="$after" -v c="$redis_before" -v d="$redis_after" \
        '{ printf "%s %s %s %.3f %.3f\n", $2, $5, $7, (b - a) * 1000 / n, (d - c) * 1000 / n }' <<<"$line"
}
median() { sort -n | awk '{ v[NR] = $1 } END { print (NR % 2) ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'; }

redis-benchmark -p "$redis_port" -t set -n 10000 -d 64 -r 1000 -q >/dev/null
echo "$(nproc) cores, $(redis-server --version | grep -o 'v=[^ ]*'), $(haproxy -v | grep -o 'version [^ ]*'), $rounds rounds, medians"
echo
echo '| row | | commands/s | of direct | p50 ms | p99 ms | CPU µs per command | Redis CPU µs |'
echo '|---|---|---:|---:|---:|---:|---:|---:|'
for row in "${rows[@]}"; do
    IFS='|' read -r name n arguments <<<"$row"
    read -ra arguments <<<"$arguments"
    case " ${arguments[*]} " in *' -d '*) ;; *) arguments+=(-d 64) ;; esac
    for peer in direct haproxy pointsman; do : >"$dir/$peer"; done
    for _ in $(seq "$rounds"); do
        measure direct "$redis_pid" "$redis_port" "$n" "${arguments[@]}" >>"$dir/direct"
        measure haproxy "$haproxy_pid" "$haproxy_port" "$n" "${arguments[@]}" >>"$dir/haproxy"
        measure pointsman "$pointsman_pid" "$pointsman_port" "$n" "${arguments[@]}" >>"$dir/pointsman"
    done
    direct=$(awk '{ print $1 }' "$dir/direct" | median)
    for peer in direct haproxy pointsman; do
        rps=$(awk '{ print $1 }' "$dir/$peer" | median)
        p50=$(awk '{ print $2 }' "$dir/$peer" | median)
        p99=$(awk '{ print $3 }' "$dir/$peer" | median)
        cpu=$(awk '{ print $4 }' "$dir/$peer" | median)
        redis=$(awk '{ print $5 }' "$dir/$peer" | median)
        [ "$peer" = direct ] && cpu=–
        awk -v n="$name" -v p="$peer" -v r="$rps" -v d="$direct" -v a="$p50" -v b="$p99" -v c="$cpu" -v e="$redis" \
            'BEGIN { printf "| %s | %s | %d | %.2f | %s | %s | %s | %.2f |\n", n, p, r, r / d, a, b, c, e }'
    done
done
