"""redis-py with asyncio: ten tasks that share a pool of connections, and its defaults but for the time-out."""

import asyncio
import itertools

import redis.asyncio as redis
from ledger import same, setting, stopped

numbers = itertools.count(1)


def open_redis():
    return redis.Redis(
        host=setting("REDIS_HOST"),
        port=int(setting("REDIS_PORT")),
        password=setting("REDIS_PASSWORD"),
        socket_timeout=20,  # seconds, longer than hold_timeout; its default, 5, is shorter
    )


async def at_rest(r):
    tags = await asyncio.gather(*(r.echo(f"tag {i}") for i in range(50)))
    same([b"tag %d" % i for i in range(50)], tags)
    async with r.pipeline() as pipe:
        same([True, 8], await pipe.set("rest:asyncio", 7).incr("rest:asyncio").execute())
    pop = asyncio.create_task(r.blpop("rest:asyncio:list", 5))
    await r.rpush("rest:asyncio:list", "x")
    same([b"rest:asyncio:list", b"x"], list(await pop))
    try:
        async with asyncio.timeout(0.1):
            await r.blpop("rest:empty", 5)
        raise AssertionError("an empty list had something")
    except TimeoutError:
        pass  # the connection of a cancelled command is of no more use, and redis-py does not use it
    same([b"after"], await asyncio.gather(r.echo("after")))


async def write(r):
    while not stopped():
        number = next(numbers)
        try:
            assert await r.rpush(setting("LEDGER"), number) > 0
            print("acknowledged", number)
        except redis.ConnectionError as lost:
            print("unknown", number, lost)
        await asyncio.sleep(0.1)


async def main():
    async with open_redis() as r:
        await at_rest(r)
        print("ready")
        await asyncio.gather(*(write(r) for _ in range(10)))


asyncio.run(main())
