"""redis-py as a publisher and a subscriber, with health checks on the subscriber's connection."""

import sys
import time

import redis
from ledger import setting, stopped

protocol = int(sys.argv[1])
r = redis.Redis(
    host=setting("REDIS_HOST"),
    port=int(setting("REDIS_PORT")),
    password=setting("REDIS_PASSWORD"),
    protocol=protocol,
    socket_timeout=20,
    health_check_interval=1,  # get_message() then sends a PING each second, and minds if no answer comes
)
subscriber = r.pubsub()
channel, pattern = f"news:{protocol}", f"n?ws:{protocol}"
subscriber.subscribe(channel)
subscriber.psubscribe(pattern)
confirmed = [subscriber.get_message(timeout=10)["type"] for _ in range(2)]
assert confirmed == ["subscribe", "psubscribe"], confirmed


def hears(number):
    """Publishes until the message is heard both ways: what is published during a switch may be missed."""
    wanted, heard = str(number).encode(), set()
    end = time.monotonic() + 30
    while heard != {"message", "pmessage"}:
        assert time.monotonic() < end, f"{number} not heard"
        r.publish(channel, number)
        again = time.monotonic() + 0.2
        while heard != {"message", "pmessage"} and time.monotonic() < again:
            message = subscriber.get_message(timeout=0.2)
            if message and message["data"] == wanted:
                heard.add(message["type"])
            # A second confirmation would say that redis-py, or pointsman, had to subscribe again.
            elif message and message["type"] not in ("message", "pmessage"):
                print("unknown 0 the subscriber:", message)


print("ready")
number = 0
while not stopped():
    number += 1
    try:
        assert r.rpush(setting("LEDGER"), number) > 0
        print("acknowledged", number)
        hears(number)
    except redis.ConnectionError as lost:
        print("unknown", number, lost)
    time.sleep(0.02)
