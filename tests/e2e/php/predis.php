<?php
// predis.

require __DIR__.'/ledger.php';
require 'Predis/autoload.php';

function open_redis(array $more = []): Predis\Client
{
    return new Predis\Client($more + [
        'host' => setting('REDIS_HOST'),
        'port' => (int) setting('REDIS_PORT'),
        'password' => setting('REDIS_PASSWORD'),
        'database' => 1,
        'timeout' => 2.0,
        'read_write_timeout' => 20.0,    // longer than hold_timeout
    ]);
}

function at_rest(Predis\Client $redis): void
{
    $bytes = random_bytes(100_000);
    $redis->set('rest:predis', $bytes);
    same($bytes, $redis->get('rest:predis'));
    same(null, $redis->get('rest:nothing'));

    $redis->set('rest:predis', 0);
    same(range(1, 1000), $redis->pipeline(function ($pipeline) {
        for ($i = 0; $i < 1000; $i++) {
            $pipeline->incr('rest:predis');
        }
    }));

    $check_and_set = ['watch' => 'rest:predis', 'cas' => true, 'retry' => 3];
    $attempts = 0;
    $replies = $redis->transaction($check_and_set, function ($transaction) use (&$attempts) {
        $value = $transaction->get('rest:predis');
        if ($attempts++ === 0) {
            open_redis()->incr('rest:predis'); // another client is faster: EXEC answers null, predis tries again
        }
        $transaction->multi();
        $transaction->set('rest:predis', $value + 1);
        $transaction->get('rest:predis');
    });
    same([2, '1002'], [$attempts, $replies[1]]);

    same(null, $redis->blpop('rest:empty', 1));
    same([1, ['x']], $redis->eval('return {1, {ARGV[1]}}', 0, 'x'));

    $subscriber = open_redis(['read_write_timeout' => 0]);
    $messages = $subscriber->pubSubLoop(['subscribe' => 'rest:predis']);
    foreach ($messages as $message) {
        if ($message->kind === 'subscribe') {
            same(1, $redis->publish('rest:predis', 'flash'));
        } elseif ($message->kind === 'message') {
            same('flash', $message->payload);
            $messages->unsubscribe();
        }
    }
}

$redis = open_redis();
at_rest($redis);
keep_ledger(function (int $id) use ($redis) {
    // The client connects again by itself after an exception.
    $in_turns = $id % 2 === 0 ? 'pipeline' : 'transaction';
    [$length, $stored] = $redis->$in_turns(function ($commands) use ($id) {
        $commands->rpush(setting('LEDGER'), [$id]);
        $commands->set('last', $id);
    });
    same('OK', (string) $stored);
    return $length;
});
