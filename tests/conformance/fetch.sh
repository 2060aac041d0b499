#!/bin/sh
# Brings a server's own test suite as Debian packages it: tests/conformance/fetch.sh redis|valkey DIRECTORY
# Afterwards DIRECTORY/suite/runtest is there, and beside it in DIRECTORY/suite/src the programs that it expects.
#
# Redis is the one that is installed. Valkey is in no Debian 12 but its backports: they are asked first, then Debian 13,
# both at the mirrors that the machine installs from. The packages are unpacked, not installed; if they do not run here
# (a newer C library), Valkey is built from the same source. Nothing of either is kept in this repository, and apt works
# on lists of our own: the system's stay as they are.
set -eu

name=$1 dir=$2
[ -x "$dir/suite/src/$name-server" ] && exit 0
rm -rf "$dir/suite" "$dir/apt/packages"
mkdir -p "$dir/apt/lists/partial" "$dir/apt/cache/archives/partial" "$dir/apt/packages"
dir=$(cd "$dir" && pwd)

# Writes a list of the sources of what the machine installs from, in either of apt's two formats; or, for a suite $1, of
# packages and sources in that suite, where the machine has its release from.
list_sources() {
    rm -rf "$dir/apt/parts"
    mkdir "$dir/apt/parts"
    release=$(. /etc/os-release && echo "${VERSION_CODENAME:-stable}")
    for list in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
        [ -f "$list" ] || continue
        if [ -n "${1:-}" ]; then
            sed -nE "s|^deb +((\[[^]]*\] +)?[^ ]+) +$release .*|deb \\1 $1 main\\ndeb-src \\1 $1 main|p" "$list"
        else
            sed -n 's/^deb /deb-src /p' "$list"
        fi >"$dir/apt/parts/$(basename "$list")"
    done
    for list in /etc/apt/sources.list.d/*.sources; do
        [ -f "$list" ] || continue
        awk -v RS= -v ORS='\n\n' -v suite="${1:-}" -v release="$release" '
            !suite || $0 ~ "(^|\n)Suites:([^\n]* )?" release "( |\n|$)" {
                sub(/(^|\n)Types:[^\n]*/, "\nTypes: " (suite ? "deb " : "") "deb-src")
                if (suite) sub(/\nSuites:[^\n]*/, "\nSuites: " suite)
                sub(/^\n/, "")
                print
            }' "$list" >"$dir/apt/parts/$(basename "$list")"
    done
}

# apt's own unprivileged user may not be allowed to write here.
apt() {
    apt-get -q -o Dir::Etc::SourceList=/dev/null -o Dir::Etc::SourceParts="$dir/apt/parts" \
        -o Dir::State::Lists="$dir/apt/lists" -o Dir::Cache="$dir/apt/cache" -o APT::Sandbox::User="$(id -un)" "$@"
}

# The source package becomes the suite. A mirror may have lost it while its list still has it.
unpack_source() {
    apt update && apt source --download-only "$name" &&
        dpkg-source --no-check -x "$name"_*.dsc "$dir/suite" && return
    rm -f "$name"_*
    return 1
}

link_programs() {
    for program in server sentinel cli benchmark check-aof check-rdb; do
        ln -sf "$(PATH=$1 command -v "$name-$program" || echo /nonexistent)" "$dir/suite/src/$name-$program"
    done
}

cd "$dir/apt/packages"
if [ "$name" = redis ]; then
    list_sources
    unpack_source
    link_programs "$PATH"
    exit
fi

for suite in "$(. /etc/os-release && echo "${VERSION_CODENAME:-stable}")-backports" trixie; do
    list_sources "$suite"
    unpack_source && break
done
[ -e "$dir/suite/runtest" ] || { echo "no source of $name at the mirrors of this machine" >&2; exit 1; }
version=$(sed -n 's/^Version: //p' "$name"_*.dsc | head -n 1)
rm -rf "$dir/server"
if apt download "$name-server=$version" "$name-tools=$version" &&
    for package in *.deb; do dpkg-deb -x "$package" "$dir/server" || exit; done &&
    "$dir/server/usr/bin/$name-server" --version; then
    link_programs "$dir/server/usr/bin"
else
    echo "$name $version does not run here: building it"
    make -s -C "$dir/suite" -j "$(nproc)" MALLOC=libc BUILD_TLS=no OPTIMIZATION=-O2 >"$dir/build.log" 2>&1 ||
        { tail -n 20 "$dir/build.log" >&2; rm -rf "$dir/suite"; exit 1; }
fi
