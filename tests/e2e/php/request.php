<?php
// What php-fpm does when an application does not use persistent connections: connect, AUTH, SELECT, a command, close, for
// each request. `ledger`: one after the other. `storm`: fifty at a time, all of which must find their value; each makes
// twenty requests before it is ready, and twenty more when it is told to stop.

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
function twenty(): void
{
    for ($n = 0; $n < 20; $n++) {
        same('found', request(fn ($redis) => $redis->get('rest:request')));
    }
}

$children = [];
[$here, $there] = stream_socket_pair(STREAM_PF_UNIX, STREAM_SOCK_STREAM, 0);
for ($i = 0; $i < 50; $i++) {
    $child = pcntl_fork();
    if ($child === 0) {
        twenty();
        fwrite($there, '.');
        while (!stopped()) {
            same('found', request(fn ($redis) => $redis->get('rest:request')));
        }
        twenty();
        exit(0);
    }
    $children[] = $child;
}
foreach ($children as $child) {
    fread($here, 1);
}
say('ready');
foreach ($children as $child) {
    pcntl_waitpid($child, $status);
    same(0, $status);
}
