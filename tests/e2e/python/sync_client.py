"""redis-py, with RESP `2` or `3`, or `once`: so that it sends nothing a second time by itself."""

import sys
import time

import redis
from ledger import same, setting, stopped
from redis.backoff import NoBackoff
from redis.retry import Retry

mode = sys.argv[1]
changes = {"2": {"protocol": 2}, "3": {"protocol": 3}, "once": {"retry": Retry(NoBackoff(), 0)}}


def open_redis():
    return redis.Redis(
        host=setting("REDIS_HOST"),
        port=int(setting("REDIS_PORT")),
        password=setting("REDIS_PASSWORD"),
        db=1,
        socket_timeout=20,  # seconds, longer than hold_timeout; its default, 5, is shorter
        health_check_interval=1,  # a PING before a command on a connection that has been idle for as long
        **changes[mode],
    )


def at_rest(r):
    key = f"rest:{mode}"
    value = bytes(range(256)) * 400
    r.set(key, value)
    same(value, r.get(key))
    same(None, r.get("rest:nothing"))

    r.set(key, 0)
    with r.pipeline(transaction=False) as pipe:
        for _ in range(1000):
            pipe.incr(key)
        same(list(range(1, 1001)), pipe.execute())
    with r.pipeline() as pipe:
        same([True, 8], pipe.set(key, 7).incr(key).execute())

    with r.pipeline() as pipe:
        pipe.watch(key)
        open_redis().incr(key)
        pipe.multi()
        pipe.incr(key)
        try:
            pipe.execute()
            raise AssertionError("a watched key was changed and EXEC went through")
        except redis.WatchError:
            pass

    same(None, r.blpop("rest:empty", 0.05))
    r.hset(f"{key}:hash", mapping={"a": 1, "b": 2})
    same({b"a": b"1", b"b": b"2"}, r.hgetall(f"{key}:hash"))
    r.zadd(f"{key}:zset", {"one": 1.5})
    same(1.5, r.zscore(f"{key}:zset", "one"))
    same(True, key.encode() in set(r.scan_iter("rest:*", count=10)))
    same([1, [b"x"]], r.eval("return {1, {ARGV[1]}}", 0, "x"))
    same(8, r.register_script("return redis.call('incrby', KEYS[1], -1)")(keys=[key]))

    with r.lock(f"{key}:lock", timeout=60):
        same(False, r.lock(f"{key}:lock").acquire(blocking=False))
    same(True, r.client_setname("tester"))
    with r.client() as one_connection:
        same(r.execute_command("PING"), one_connection.ping())


r = open_redis()
at_rest(r)
print("ready")
number = 0
while not stopped():
    number += 1
    try:
        with r.pipeline() as pipe:
            length, _ = pipe.rpush(setting("LEDGER"), number).set("last", number).execute()
        assert isinstance(length, int) and length > 0, length
        print("acknowledged", number)
    except redis.ConnectionError as lost:
        print("unknown", number, lost)
    time.sleep(0.01)
