<?php
// phpredis: what becomes of an error reply that pointsman makes. It has to be an exception, never a value. With Redis as
// with pointsman, phpredis makes `false` of every error in place of an array; then getLastError() has to tell.

require __DIR__.'/ledger.php';

function open_redis(): Redis
{
    $redis = new Redis();
    $redis->connect(setting('REDIS_HOST'), (int) setting('REDIS_PORT'), 2.0, null, 0, 20.0);
    return $redis;
}

function wait_for_go(): void
{
    say('ready');
    while (!stopped()) {
        usleep(10_000);
    }
}

/** One step of SCAN. `false` is the end only if the cursor is 0; phpredis keeps the text of this error to itself. */
function scan(Redis $redis, ?int &$cursor): array
{
    $keys = $redis->scan($cursor);
    if ($keys === false && $cursor !== 0) {
        throw new RedisException('SCAN was refused: begin again');
    }
    return $keys ?: [];
}

function provoke(string $error): mixed
{
    $cursor = null;
    if (in_array($error, ['TooManyClients', 'Denied'])) {
        wait_for_go();
        return open_redis()->get('key');
    }
    $redis = open_redis();
    if (in_array($error, ['TransactionLost', 'StaleCursor', 'WaitUnknown'])) {
        $redis->auth([setting('REDIS_USER'), setting('REDIS_PASSWORD')]);
    }
    if ($error === 'StaleCursor') {
        $redis->scan($cursor, null, 1);
    } elseif ($error === 'TransactionLost') {
        $redis->multi();
        $redis->set('errors:php', 1);
    } elseif ($error === 'WaitUnknown') {
        $redis->incr('errors:php:waited');
    } else {
        $redis->ping();
    }
    wait_for_go();
    return match ($error) {
        'NoMaster' => $redis->get('key'),
        'PinLimit' => $redis->blPop(['key'], 1) === false
            ? throw new RedisException("false, {$redis->getLastError()}") : 'an array',
        'Refused' => $redis->rawCommand('REPLICAOF', 'NO', 'ONE'),
        'TransactionLost' => $redis->exec(),
        'StaleCursor' => scan($redis, $cursor),
        'WaitUnknown' => $redis->wait(1, 10),
    };
}

try {
    say('value '.var_export(provoke($argv[1]), true));
} catch (RedisException $e) {
    say('threw '.get_class($e).' '.$e->getMessage());
}
