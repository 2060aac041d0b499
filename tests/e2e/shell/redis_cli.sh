#!/bin/sh
# redis-cli, as people use it at a prompt and in scripts.
set -eu

export REDISCLI_AUTH="$REDIS_PASSWORD"
scratch=$(mktemp -d)
listening=
trap 'rm -rf "$scratch"; [ -z "$listening" ] || kill $listening' EXIT

redis() {
    redis-cli --no-auth-warning -h "$REDIS_HOST" -p "$REDIS_PORT" "$@"
}

same() {
    [ "$1" = "$2" ] || { printf '%s: expected\n%s\ngot\n%s\n' "$3" "$1" "$2"; exit 1; }
}

contains() {
    case $1 in *"$2"*) ;; *) printf '%s: no "%s" in\n%s\n' "$3" "$2" "$1"; exit 1 ;; esac
}

same OK "$(redis SET rest:cli 'some text')" SET
same 'some text' "$(redis GET rest:cli)" GET
same 'some text' "$(redis --json GET rest:cli | tr -d '"')" --json
printf abc | redis -x SET rest:x >/dev/null
same abc "$(redis GET rest:x)" -x
redis HSET rest:hash a 1 >/dev/null
same '1# "a" => "1"' "$(redis -3 --no-raw HGETALL rest:hash)" -3
contains "$(redis -3 --no-raw HELLO)" '# "proto" => (integer) 3' 'HELLO with -3'
contains "$(redis INFO replication)" role:master INFO
contains "$(redis CLIENT LIST)" cmd=client CLIENT\ LIST
echo "return {KEYS[1], ARGV[1]}" >"$scratch/script.lua"
same "$(printf 'key\nword')" "$(redis --eval "$scratch/script.lua" key , word)" --eval

# A script on standard input is one connection: its database and its transaction last.
same "$(printf 'OK\nOK\nQUEUED\nQUEUED\nOK\n2')" \
    "$(printf 'SELECT 3\nMULTI\nSET rest:n 1\nINCR rest:n\nEXEC\n' | redis)" 'standard input'
same '' "$(redis GET rest:n)" 'the other database'

# Mass insertion: inline commands and RESP.
i=0
while [ $i -lt 2000 ]; do
    i=$((i + 1))
    echo "SET rest:pipe:$i $i"
done >"$scratch/inline"
contains "$(redis --pipe <"$scratch/inline")" 'errors: 0, replies: 2000' --pipe
same 2000 "$(redis --scan --pattern 'rest:pipe:*' | sort -u | wc -l | tr -d ' ')" --scan
contains "$(redis --bigkeys)" 'Biggest string found' --bigkeys

# Minimum, maximum and mean of a second of PINGs, and how many there were.
set -- $(redis --latency --raw)
[ $# -ge 4 ] && [ "$4" -gt 10 ] || { echo "--latency: $*"; exit 1; }

redis MONITOR >"$scratch/monitor" &
listening=$!
until grep -q rest:watched "$scratch/monitor"; do
    redis GET rest:watched >"$scratch/unused"
done
kill $listening

redis SUBSCRIBE rest:news >"$scratch/news" &
listening=$!
until [ "$(redis PUBLISH rest:news flash)" -gt 0 ]; do :; done
until grep -q flash "$scratch/news"; do sleep 0.02; done
kill $listening
listening=

# A replica's stream is nothing that a proxy can share out. Ask the server itself.
if redis --rdb "$scratch/dump.rdb" >"$scratch/rdb" 2>&1; then
    echo "--rdb: worked, or so it said"
    exit 1
fi
contains "$(cat "$scratch/rdb")" 'NOPERM pointsman: ' --rdb

echo ready
number=0
while [ ! -e "$STOP_FILE" ]; do
    number=$((number + 1))
    if length=$(redis -e RPUSH "$LEDGER" $number 2>&1) && [ "$length" -gt 0 ]; then
        echo "acknowledged $number"
    else
        echo "unknown $number $length"
    fi
    sleep 0.05
done
