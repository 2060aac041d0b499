#!/bin/sh
# Installs, upgrades, removes and purges a package in a small Debian of its own, as root: try.sh PACKAGE DIRECTORY
# The packages of that Debian come from where this machine has its own.
set -eu
package=$(realpath "$1")
root=$2/root
sources=$(find /etc/apt -maxdepth 2 -name '*.sources' -o -maxdepth 2 -name '*.list')

fail() {
    echo "FAILED: $*" >&2
    exit 1
}
inside() {
    chroot "$root" env DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 PATH=/usr/sbin:/usr/bin:/sbin:/bin "$@"
}

lintian --allow-root --fail-on error,warning "$package"

rm -rf "$root"
# shellcheck disable=SC2086
mmdebstrap --quiet --variant=apt --include=systemd-standalone-sysusers "" "$root" $sources
inside find / -xdev -path /proc -prune -o -path /sys -prune -o -print | sort >"$2/before"
cp "$package" "$root/tmp/pointsman.deb"

inside apt-get install -q -y --no-install-recommends /tmp/pointsman.deb
inside pointsman --version
[ "$(inside stat -c '%a %U %G' /etc/pointsman/pointsman.toml)" = '640 root pointsman' ] || fail 'the configuration is open'
inside setpriv --reuid pointsman --regid pointsman --init-groups \
    pointsman check --config /etc/pointsman/pointsman.toml || fail 'its user cannot use the configuration'
[ ! -e "$root/etc/systemd/system/multi-user.target.wants/pointsman.service" ] || fail 'it is enabled'

echo '# changed by the administrator' >>"$root/etc/pointsman/pointsman.toml"
inside dpkg --install /tmp/pointsman.deb
grep -q administrator "$root/etc/pointsman/pointsman.toml" || fail 'an upgrade took the configuration away'
[ "$(inside stat -c '%a %U %G' /etc/pointsman/pointsman.toml)" = '640 root pointsman' ] || fail 'an upgrade opened it'

inside apt-get remove -q -y pointsman
[ -e "$root/etc/pointsman/pointsman.toml" ] || fail 'its removal took the configuration away'
inside apt-get purge -q -y pointsman
[ ! -e "$root/etc/pointsman" ] || fail 'something is left in /etc/pointsman'
inside find / -xdev -path /proc -prune -o -path /sys -prune -o -print | sort >"$2/after"
left=$(comm -13 "$2/before" "$2/after" | grep -v -E '^/(var/(cache|log|lib/(apt|dpkg|systemd))|tmp)/|^/etc/\.pwd\.lock$|^/etc/(passwd|group|shadow|gshadow)-$' || true)
[ -z "$left" ] || fail "left behind: $left"
rm -rf "$root"
echo "$(basename "$package"): installed, upgraded, removed and purged"
