#!/bin/sh
# Points a DNS record of type A or AAAA at the master, by an HTTP API like Linode's:
#
#     dns.sh DOMAIN RECORD TOKEN_FILE [API]
#
# DOMAIN and RECORD are their numbers (linode-cli domains list; linode-cli domains records-list DOMAIN), TOKEN_FILE holds
# a token with the right to change domains on its only line, API is https://api.linode.com unless it is given. Give the
# record a short TTL (30 s). For programs that cannot go through pointsman: it is the better way for all that can.
#
#     [[hook]]
#     name = "dns"
#     exec = ["/usr/local/lib/pointsman/dns.sh", "1234", "5678", "/etc/pointsman/linode.token"]
#     events = ["master_found", "failover_committed", "failover_rolled_back"]
#     timeout = "20s"
#     retries = 10
#
# Several instances may run it: each sets the same. Exit codes: 0 the record is right; 1 it is not, and pointsman tries
# again; 2 wrong usage.
set -eu

fail() {
    code=$1
    shift
    echo "dns.sh: $*" >&2
    exit "$code"
}

[ $# -eq 3 ] || [ $# -eq 4 ] || fail 2 'usage: dns.sh DOMAIN RECORD TOKEN_FILE [API]'
for number in "$1" "$2"; do
    case $number in
        '' | *[!0-9]*) fail 2 "expected the number of a domain or record, found '$number'" ;;
    esac
done
record=${4:-https://api.linode.com}/v4/domains/$1/records/$2
token=$(cat "$3") || fail 2 "the token cannot be read"
# It becomes a line of curl's configuration.
case $token in
    '' | *[!A-Za-z0-9._~+/=-]*) fail 2 "$3: expected one line with a token" ;;
esac

# api METHOD [BODY]: sets answer to the body of a success. The token is no argument, which every user could see.
api() {
    method=$1
    shift
    [ $# -eq 0 ] || set -- --data "$1"
    answer=$(
        printf 'header = "Authorization: Bearer %s"\n' "$token" |
            curl --config - --silent --show-error --connect-timeout 4 --max-time 8 --write-out '\n%{http_code}' \
                --header 'Content-Type: application/json' --request "$method" "$@" "$record"
    ) || fail 1 "$method came to nothing"
    status=${answer##*
}
    answer=${answer%
*}
    case $status in
        2??) ;;
        # The API says what is wrong, and never repeats the token.
        *) fail 1 "$method was answered $status: $(printf '%s' "$answer" | tr -d '\n' | cut -c 1-200)" ;;
    esac
}

case ${POINTSMAN_EVENT:-} in
    master_found | failover_committed | failover_rolled_back) ;;
    # Whether the record can be read is all that can be tried without changing it.
    trial)
        api GET
        exit 0
        ;;
    *) exit 0 ;;
esac

address=${POINTSMAN_MASTER%:*}
address=${address#[}
address=${address%]}
case $address in
    '' | *[!0-9a-fA-F.:]*) fail 2 "expected the address of a master, found '${POINTSMAN_MASTER:-}'" ;;
esac
api PUT "{\"target\": \"$address\"}"
echo "the record points at $address"
