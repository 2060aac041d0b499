<?php
// What php-fpm does when an application does not use persistent connections: connect, AUTH, SELECT, a command, close, for
// each request. `ledger`: one after the other. `storm`: fifty at a time, twenty each, all of which must find their value.

require __DIR__.'/ledger.php';

function request(callable $use): mixed
{
    $redis = new Redis();
    $redis->connect(setting('REDIS_HOST'), (int) setting('REDIS_PORT'), 2.0, null, 0, 20.0);
    $redis->auth(setting('REDIS_PASSWORD'));
    $redis->select(1);
    $result = $use($redis);
    $redis->close();
    return $result;
}

if ($argv[1] === 'ledger') {
    keep_ledger(fn (int $id) => request(fn ($redis) => $redis->rPush(setting('LEDGER'), $id)));
    exit(0);
}

request(fn ($redis) => $redis->set('rest:request', 'found'));
$children = [];
for ($i = 0; $i < 50; $i++) {
    $child = pcntl_fork();
    if ($child === 0) {
        for ($n = 0; $n < 20; $n++) {
            same('found', request(fn ($redis) => $redis->get('rest:request')));
        }
        exit(0);
    }
    $children[] = $child;
}
foreach ($children as $child) {
    pcntl_waitpid($child, $status);
    same(0, $status);
}
