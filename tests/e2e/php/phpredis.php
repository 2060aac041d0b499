<?php
// phpredis, with `connect` or `pconnect`.

require __DIR__.'/ledger.php';

function open_redis(string $connect): Redis
{
    $redis = new Redis();
    // Seconds: 2 for the connect, 20 for a reply, which is longer than hold_timeout. The default, 60, is too.
    $redis->$connect(setting('REDIS_HOST'), (int) setting('REDIS_PORT'), 2.0, null, 0, 20.0);
    $redis->auth(setting('REDIS_PASSWORD'));
    $redis->select(1);
    return $redis;
}

function at_rest(Redis $redis, string $connect): void
{
    $bytes = random_bytes(100_000);
    same(true, $redis->set("rest:bytes:$connect", $bytes));
    same($bytes, $redis->get("rest:bytes:$connect"));
    same(false, $redis->get('rest:nothing'));
    $redis->del("rest:$connect");

    $pipeline = $redis->multi(Redis::PIPELINE);
    for ($i = 1; $i <= 1000; $i++) {
        $pipeline->incr("rest:$connect");
    }
    same(range(1, 1000), $pipeline->exec());

    same([true, 8], $redis->multi()->set("rest:$connect", 7)->incr("rest:$connect")->exec());
    $redis->watch("rest:$connect");
    open_redis('connect')->incr("rest:$connect");
    same(false, $redis->multi()->incr("rest:$connect")->exec());

    same([], $redis->blPop(['rest:empty'], 1));
    same([1, [2, ['x']]], $redis->eval("return {1, {2, {ARGV[1]}}}", ['x']));

    // A page may be empty and not the last.
    $redis->setOption(Redis::OPT_SCAN, Redis::SCAN_RETRY);
    $cursor = null;
    $found = [];
    while ($keys = $redis->scan($cursor, 'rest:*', 10)) {
        $found = [...$found, ...$keys];
    }
    same(true, in_array("rest:bytes:$connect", $found));

    // Two connections of one process each keep their database. (A persistent one is the same connection again.)
    $other = open_redis('connect');
    $other->select(3);
    $other->set('rest:where', 'three');
    same(false, $redis->get('rest:where'));
    same('three', $other->get('rest:where'));
    $other->close();
}

function messages(Redis $redis): void
{
    $subscriber = pcntl_fork();
    if ($subscriber === 0) {
        $heard = [];
        open_redis('connect')->subscribe(['rest:phpredis'], function ($redis, $channel, $message) use (&$heard) {
            $heard[] = $message;
            if (count($heard) === 3) {
                same(['a', 'b', 'c'], $heard);
                posix_kill(getmypid(), SIGKILL); // phpredis offers no other way out of subscribe
            }
        });
    }
    while ($redis->publish('rest:phpredis', 'a') === 0) {
        usleep(10_000);
    }
    $redis->publish('rest:phpredis', 'b');
    $redis->publish('rest:phpredis', 'c');
    pcntl_waitpid($subscriber, $status);
    same(SIGKILL, pcntl_wifsignaled($status) ? pcntl_wtermsig($status) : $status);
}

$redis = open_redis($argv[1]);
at_rest($redis, $argv[1]);
if ($argv[1] === 'connect') {
    messages($redis);
}
keep_ledger(function (int $id) use (&$redis, $argv) {
    try {
        $redis ??= open_redis($argv[1]);
        [, $length] = $redis->multi()->set('last', $id)->rPush(setting('LEDGER'), $id)->exec();
        return $length;
    } catch (RedisException $lost) {
        // It would connect and authenticate again by itself, and go on in database 0.
        $redis = null;
        throw $lost;
    }
});
