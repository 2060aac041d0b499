#!/bin/sh
# Plants faults in src/topology, one by one, and tells which of them no test notices: tests/mutants.sh [arguments of
# cargo mutants]. The report is in target/mutants/mutants.out; places in it are those of the repository.
#
# The whole package takes half a minute to build for each fault. src/topology imports next to nothing, so its faults are
# planted in a package of nothing else, below target/mutants, where one takes three seconds.
#
# WITH_MODEL=1 runs tests/model too, for what else nothing notices (some minutes for each).
set -eu

cargo=${CARGO:-cargo}
root=$(cd "$(dirname "$0")/.." && pwd)
package=$root/target/mutants/package
mkdir -p "$package"
cd "$package"
rm -rf src tests
mkdir -p src
cp -R "$root/src/topology" "$root/src/addr.rs" "$root/src/clock.rs" src
cp "$root/Cargo.lock" .
if [ -n "${WITH_MODEL:-}" ]; then
    mkdir tests
    cp -R "$root/tests/model" tests
    tests='--lib --test model'
else
    tests=--lib
fi

# Dependencies as the whole package has them. The name is the one by which tests/model knows the machine.
dependency() { grep -E "^($1) = " "$root/Cargo.toml" | sort -u; }
cat >Cargo.toml <<TOML
[package]
name = "pointsman"
version = "$(sed -n 's/^version = "\(.*\)"/\1/p' "$root/Cargo.toml" | head -n 1)"
edition = "2024"

[lib]
doctest = false

[dependencies]
$(dependency 'ipnet|serde|thiserror')
rustix = { version = "1", features = ["time"] }
tokio = { version = "1", features = ["sync", "time"] }

[dev-dependencies]
$(dependency 'fastrand|proptest|serde_json')
tokio = { version = "1", features = ["macros", "rt", "test-util"] }

[profile.dev]
debug = false
opt-level = $([ -n "${WITH_MODEL:-}" ] && echo 2 || echo 0)

[workspace]
TOML
{
    echo 'pub mod addr; pub mod clock; pub mod topology;'
    echo '/// What `topology` needs of the configuration.'
    echo 'pub mod config {'
    sed -n '/^\/\/\/ When a promotion counts/,/^}/p' "$root/src/config/mod.rs"
    echo '}'
} >src/lib.rs
# What this package does not need leaves the lock file; what stays keeps its version.
$cargo update --quiet --offline --workspace 2>/dev/null || $cargo update --quiet --workspace

[ $# -gt 0 ] || set -- --file 'src/topology/**/*.rs'
# Few cases of what is random: who does not notice in these that a rule is gone does not in many. And that one fails is
# enough, however long it is.
export PROPTEST_CASES="${PROPTEST_CASES:-32}" PROPTEST_MAX_SHRINK_ITERS=0
exec $cargo mutants --config "$root/tests/mutants.toml" --output "$root/target/mutants" \
    "$@" -- $tests ${TEST_ARGS:-}
