#!/bin/sh
# Installs what the given programs need, if one of them is missing: tests/install.sh PROGRAM|LIBRARY...
# Debian and Ubuntu; as root or through sudo. The packages bring services with them; none is left running that was not
# there before, since the demo and the tests start servers of their own.
set -eu

packages_of() {
    case $1 in
        cc) echo gcc libc6-dev ;;
        c++) echo g++ ;;
        redis-cli | redis-benchmark) echo redis-tools ;;
        redis-server) echo redis-server ;;
        redis-sentinel) echo redis-sentinel ;;
        setpriv) echo util-linux ;;
        dpkg-source | dpkg-buildpackage) echo dpkg-dev ;;
        dh_installsystemd) echo dh-sequence-installsysusers ;;
        ip) echo iproute2 ;;
        promtool) echo prometheus ;;
        amtool) echo prometheus-alertmanager ;;
        perf) echo linux-perf ;;
        tclsh) echo tcl ;;
        systemd-analyze | systemd-socket-activate) echo systemd ;;
        dnsmasq) echo dnsmasq-base ;;
        *) echo "$1" ;;
    esac
}

# Libraries, which put no program into PATH, are given by the name of their package.
is_there() {
    case $1 in
        lib* | php-* | python3-*)
            dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null | grep -q '^installed' ;;
        # haproxy lives in /usr/sbin, which is not in everybody's PATH.
        *) PATH=$PATH:/usr/sbin:/sbin command -v "$1" >/dev/null 2>&1 ;;
    esac
}

services_of() {
    case $1 in
        redis-server | redis-sentinel | haproxy | nutcracker | prometheus | prometheus-alertmanager) echo "$1.service" ;;
    esac
}

missing= packages= services=
for program in "$@"; do
    is_there "$program" && continue
    missing="$missing $program"
    for package in $(packages_of "$program"); do
        packages="$packages $package"
        services="$services $(services_of "$package")"
    done
done
[ -n "$missing" ] || exit 0

echo "missing:$missing; installing:$packages"
if ! command -v apt-get >/dev/null 2>&1; then
    echo "there is no apt-get here: install$missing by hand, version 7.0 of Redis or later, and try again" >&2
    exit 1
fi
if [ "$(id -u)" -eq 0 ]; then
    as_root=
elif command -v sudo >/dev/null 2>&1; then
    as_root=sudo
else
    echo "neither root nor sudo: have somebody run  apt-get install$packages" >&2
    exit 1
fi

# A masked unit cannot be started by the installation; without systemd, RUNLEVEL=1 keeps invoke-rc.d from it.
masked=
if [ -d /run/systemd/system ] && [ -n "$(echo $services)" ]; then
    masked=$services
    $as_root systemctl mask --quiet $masked
fi
status=0
{
    $as_root apt-get update -q &&
        $as_root env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
            apt-get install -q -y --no-install-recommends $packages
} </dev/null || status=$?
if [ -n "$masked" ]; then
    $as_root systemctl unmask --quiet $masked
    $as_root systemctl disable --quiet $masked || true
fi
exit $status
