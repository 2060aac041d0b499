"""redis-py: what becomes of an error reply that pointsman makes. It has to be an exception, never a value."""

import sys
import time

import redis
from ledger import setting, stopped


def open_redis(**more):
    return redis.Redis(host=setting("REDIS_HOST"), port=int(setting("REDIS_PORT")), socket_timeout=20, **more)


def wait_for_go():
    print("ready")
    while not stopped():
        time.sleep(0.01)


def provoke(error):
    if error in ("TooManyClients", "Denied"):
        wait_for_go()
        return open_redis().get("key")
    if error in ("TransactionLost", "StaleCursor", "WaitUnknown"):
        r = open_redis(username=setting("REDIS_USER"), password=setting("REDIS_PASSWORD")).client()
    if error == "StaleCursor":
        cursor, _ = r.scan(0, count=1)
    elif error == "TransactionLost":
        r.execute_command("MULTI")
        r.execute_command("SET", "errors:python", 1)
    elif error == "WaitUnknown":
        r.incr("errors:python:waited")
    else:
        r = open_redis()
        r.ping()
    wait_for_go()
    match error:
        case "NoMaster":
            return r.get("key")
        case "PinLimit":
            return r.blpop("key", 1)
        case "Refused":
            return r.replicaof("NO", "ONE")
        case "TransactionLost":
            return r.execute_command("EXEC")
        case "StaleCursor":
            return r.scan(cursor)
        case "WaitUnknown":
            return r.wait(1, 10)


try:
    print("value", provoke(sys.argv[1]))
except redis.RedisError as e:
    print("threw", type(e).__name__, e)
