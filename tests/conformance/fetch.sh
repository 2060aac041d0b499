#!/bin/sh
# Brings the test suite of the Redis that Debian packages: tests/conformance/fetch.sh DIRECTORY
# Nothing of Redis is kept in this repository. The list of sources is a list of its own; the system's stays as it is.
set -eu

dir=$1
[ -e "$dir/suite/runtest" ] && exit 0
mkdir -p "$dir/apt/lists/partial" "$dir/apt/cache/archives/partial" "$dir/suite"
dir=$(cd "$dir" && pwd)

# The sources of what the system installs its packages from, in either of apt's two formats.
mkdir -p "$dir/apt/parts"
for list in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
    [ -f "$list" ] && sed -n 's/^deb /deb-src /p' "$list" >"$dir/apt/parts/$(basename "$list" .list).list"
done
for list in /etc/apt/sources.list.d/*.sources; do
    [ -f "$list" ] && sed 's/^Types:.*/Types: deb-src/' "$list" >"$dir/apt/parts/$(basename "$list")"
done

# apt's own unprivileged user may not be allowed to write here.
apt() {
    apt-get -q -o Dir::Etc::SourceList=/dev/null -o Dir::Etc::SourceParts="$dir/apt/parts" \
        -o Dir::State::Lists="$dir/apt/lists" -o Dir::Cache="$dir/apt/cache" -o APT::Sandbox::User="$(id -un)" "$@"
}

cd "$dir/apt"
apt update
# Only the suite is wanted: the server that is tested against is the one installed.
apt source --download-only redis
tar -xzf redis_*.orig.tar.gz -C "$dir/suite" --strip-components 1

# What the suite expects to have been built beside it.
for program in redis-server redis-sentinel redis-cli redis-benchmark redis-check-aof redis-check-rdb; do
    ln -sf "$(command -v $program || echo /nonexistent)" "$dir/suite/src/$program"
done
