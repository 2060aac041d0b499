"""redis-py by TLS, with a certificate of its own: plain and with asyncio, RESP2 and RESP3."""

import asyncio

import redis
import redis.asyncio
from ledger import same, setting

OPTIONS = {
    "host": "localhost",
    "port": int(setting("REDIS_PORT")),
    "ssl": True,
    "ssl_ca_certs": setting("TLS_CA"),
    "ssl_certfile": setting("TLS_CERT"),
    "ssl_keyfile": setting("TLS_KEY"),
    "socket_timeout": 20,
}
LARGE = b"x" * (1 << 20)


async def with_asyncio(protocol):
    async with redis.asyncio.Redis(protocol=protocol, **OPTIONS) as r:
        same(True, await r.set("tls:python", LARGE))
        same([LARGE] * 5, await asyncio.gather(*(r.get("tls:python") for _ in range(5))))


for protocol in (2, 3):
    with redis.Redis(protocol=protocol, **OPTIONS) as r:
        same(True, r.set("tls:python", LARGE))
        same(LARGE, r.get("tls:python"))
        same([True, 8], r.pipeline().set("tls:python", 7).incr("tls:python").execute())
        same("app", r.client_info()["name"])
        news = r.pubsub()
        news.subscribe("tls:news")
        same("subscribe", news.get_message(timeout=20)["type"])
        r.publish("tls:news", "fresh")
        same(b"fresh", news.get_message(timeout=20)["data"])
        news.close()
    asyncio.run(with_asyncio(protocol))
