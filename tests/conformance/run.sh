#!/bin/bash
# Runs a server's own test suite file by file, directly against the server and through pointsman, and compares test by
# test.
#
#   tests/conformance/run.sh redis|valkey|resp3 [--reuse-direct] [FILE...]
#                                                   FILE as the suite names them: unit/auth, unit/type/list
#
# resp3 is Valkey's with every client greeting by HELLO 3. --reuse-direct takes the direct results of the last run.
# Every file gets a fresh server (and a fresh pointsman), so that one which hangs or crashes costs only itself. Fails
# if a test passes directly and not through pointsman, unless tests/conformance/{redis,valkey}.txt names it.
set -u

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
case ${1:-} in
    redis) of=redis ;;
    valkey | resp3) of=valkey ;;
    *) echo "usage: $0 redis|valkey|resp3 [--reuse-direct] [FILE...]" >&2; exit 2 ;;
esac
what=$1 suite=$root/target/conformance/$of/suite
shift
# Where the logs go.
work=$root/target/conformance/results/$what
mkdir -p "$work"
pointsman=${POINTSMAN:-$root/target/fast/pointsman}
server=$(echo "$suite"/src/*-server)
# Seconds that one file may take.
limit=${LIMIT:-240}
# External tests only; those that need a replica's stream or an RDB file would look for it on this machine's server.
tags=${TAGS:--slow -needs:repl -needs:save}

reuse=
[ "${1:-}" = --reuse-direct ] && reuse=yes && shift

# Those of its cluster and of modules need servers of their own.
files() {
    (cd "$suite" && ./runtest --list-tests) | grep -vE '^unit/(cluster|moduleapi)/' | sort
}
[ $# -gt 0 ] || set -- $(files)

children=()
stop() {
    for pid in "${children[@]}"; do
        kill -CONT "$pid" 2>/dev/null
        kill -KILL "$pid" 2>/dev/null
        wait "$pid" 2>/dev/null
    done
    children=()
}
trap stop EXIT
trap 'exit 130' INT TERM

# Starts a server of its own in $1, and sets $port.
start_server() {
    local attempt
    for attempt in 1 2 3 4 5 6 7 8; do
        port=$((20000 + RANDOM % 10000))
        $server --port $port --bind 127.0.0.1 --save '' --dir "$1" --logfile "$1/redis.log" \
            --enable-protected-configs yes --enable-debug-command yes --enable-module-command yes &
        children+=($!)
        await "$1/redis.log" 'Ready to accept connections' $! && return 0
    done
    echo "cannot start $server, see $1/redis.log" >&2
    exit 1
}

# Starts pointsman before $port, with everything allowed that it refuses by default, and sets $port to its own.
start_pointsman() {
    cat >"$1/pointsman.toml" <<EOF
workers = 1
[[service]]
name = "conformance"
listen = ["127.0.0.1:0"]
master = "127.0.0.1:$port"
# The suite stops its server for seconds on purpose.
hold_timeout = "60s"
silence_threshold = "10s"
refuse = []
EOF
    "$pointsman" run --config "$1/pointsman.toml" >"$1/pointsman.log" 2>&1 &
    children+=($!)
    if ! await "$1/pointsman.log" listening $!; then
        cat "$1/pointsman.log" >&2
        exit 1
    fi
    port=$(sed -n 's/.*listening.*address"\?[=:]"\?127.0.0.1:\([0-9]*\).*/\1/p' "$1/pointsman.log")
}

# Waits for a line in a log, for as long as the process lives.
await() {
    local i
    for i in $(seq 200); do
        grep -q "$2" "$1" 2>/dev/null && return 0
        kill -0 "$3" 2>/dev/null || return 1
        sleep 0.05
    done
    return 1
}

# The suite makes RESP3 the version that its servers begin with, which only a server it has configured does; so the
# clients ask for it. The procedure that connects one is wrapped, once, in both ways that a file is run.
resp3=
if [ "$what" = resp3 ]; then
    resp3=--force-resp3
    grep -q '^rename valkey ' "$suite/tests/support/valkey.tcl" || cat "$here/hello3.tcl" >>"$suite/tests/support/valkey.tcl"
fi

# run_file WAY FILE: the suite's log goes to $work/WAY/FILE.log.
run_file() {
    local dir=$work/$1/$2 port
    rm -rf "$dir" "$dir.log"
    mkdir -p "$dir"
    start_server "$dir"
    [ "$1" = through ] && start_pointsman "$dir"
    # timeout puts the suite and all that it starts into a process group of their own, and ends that.
    # The suite's own processes talk to each other from baseport on.
    (cd "$suite" && TERM=dumb exec timeout -k 5 "$limit" ./runtest --host 127.0.0.1 --port "$port" \
        --tags "$tags" --baseport $((30000 + RANDOM % 2000)) --durable --timeout $((limit / 2)) $resp3 --single "$2") >"$dir.log" 2>&1 </dev/null
    [ $? -ge 124 ] && echo "[limit]: ended after $limit seconds" >>"$dir.log"
    stop
}

# The names of the tests that passed.
passed() {
    sed -n 's/^\[ok\]: \(.*\) ([0-9]* ms)$/\1/p' "$1" | sort
}

export LC_ALL=C
excluded=$work/excluded
grep -v '^ *\(#\|$\)' "$here/$of.txt" | sort >"$excluded"
: >"$work/lost"
: >"$work/excused"
printf '%-34s %7s %8s %6s %9s\n' file direct through lost excluded
total_direct=0 total_through=0
for file in "$@"; do
    [ -n "$reuse" ] && [ -e "$work/direct/$file.log" ] || run_file direct "$file"
    run_file through "$file"
    passed "$work/direct/$file.log" >"$work/direct.names"
    passed "$work/through/$file.log" >"$work/through.names"
    direct=$(wc -l <"$work/direct.names") through=$(wc -l <"$work/through.names")
    # A name may stand for several tests: each counts.
    comm -23 "$work/direct.names" "$work/through.names" | sed "s|^|$file: |" >"$work/missing"
    grep -vxFf "$excluded" "$work/missing" >"$work/lost.file"
    grep -xFf "$excluded" "$work/missing" >"$work/excused.file"
    cat "$work/lost.file" >>"$work/lost"
    cat "$work/excused.file" >>"$work/excused"
    total_direct=$((total_direct + direct)) total_through=$((total_through + through))
    [ "$direct" -eq 0 ] && continue
    printf '%-34s %7d %8d %6d %9d\n' "$file" "$direct" "$through" "$(wc -l <"$work/lost.file")" \
        "$(wc -l <"$work/excused.file")"
done
printf '%-34s %7d %8d %6d %9d\n' total $total_direct $total_through "$(wc -l <"$work/lost")" "$(wc -l <"$work/excused")"

status=0
if [ -s "$work/lost" ]; then
    printf '\nThese pass directly and not through pointsman (logs: %s):\n' "$work/through"
    cat "$work/lost"
    status=1
fi
# Only for the files that ran.
for file in "$@"; do grep -F "$file: " "$excluded"; done | sort -u | grep -vxFf "$work/excused" >"$work/stale"
if [ -s "$work/stale" ]; then
    # Not an error: some depend on which connections happen to be open.
    printf '\nThese are excluded and have passed, or are not there any more:\n'
    cat "$work/stale"
fi
exit $status
