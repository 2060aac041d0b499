#!/bin/sh
# Makes the Debian package of a program that is built: deploy/debian/build.sh PROGRAM DIRECTORY
# Prints the package's path, a file in DIRECTORY. Everything else in that directory may be lost.
set -eu
program=$(realpath "$1")
mkdir -p "$2"
out=$(realpath "$2")
cd "$(dirname "$0")/../.."

version=$("$program" --version | cut -d ' ' -f 2)
tree=$out/pointsman
rm -rf "$tree"
mkdir -p "$tree/examples" "$tree/man" "$tree/completions"
cp -r deploy/debian "$tree/debian"
rm "$tree/debian/build.sh" "$tree/debian/try.sh" "$tree/debian/pages.rs"
cp "$program" "$tree/pointsman"
cp -r README.md docs "$tree"
cp config/pointsman.toml "$tree/pointsman.toml"
for unit in service socket sysusers; do
    cp deploy/systemd/pointsman.$unit "$tree/debian/pointsman.$unit"
done
cp -r config/minimal.toml deploy/redis deploy/hooks "$tree/examples"
{
    echo '% pointsman.toml 5'
    sed 's/^# Configuration$/# NAME\n\npointsman.toml - configuration of pointsman/' docs/configuration.md
} | go-md2man -out "$tree/man/pointsman.toml.5"
"${CARGO:-cargo}" run --quiet --locked --profile fast --example pages -- "$tree/man" "$tree/completions"

# The date of the last change, so that the same sources make the same package.
cat >"$tree/debian/changelog" <<END
pointsman ($version) unstable; urgency=medium

  * See CHANGELOG.md in the sources.

 -- The pointsman developers <pointsman@localhost>  $(git log -1 --format=%cD 2>/dev/null || date -R)
END
(cd "$tree" && dpkg-buildpackage --build=binary --no-sign) >"$out/log" 2>&1 || {
    cat "$out/log" >&2
    exit 1
}
ls "$out"/pointsman_"$version"_*.deb
