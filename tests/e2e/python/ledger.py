"""What the Python programs here share: the lines by which the test follows their ledger."""

import os


def setting(name):
    return os.environ[name]


def stopped():
    return os.path.exists(setting("STOP_FILE"))


def same(expected, actual):
    assert expected == actual, f"expected {expected!r}, got {actual!r}"
