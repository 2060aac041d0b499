<?php
// phpredis by TLS, with a certificate of its own: as an application has it, with and without a persistent connection.

require __DIR__.'/ledger.php';

$context = ['stream' => [
    'cafile' => setting('TLS_CA'),
    'local_cert' => setting('TLS_CERT'),
    'local_pk' => setting('TLS_KEY'),
    'verify_peer_name' => true,
]];
foreach (['connect', 'pconnect', 'pconnect'] as $connect) {
    $redis = new Redis();
    $redis->$connect('tls://localhost', (int) setting('REDIS_PORT'), 2.0, null, 0, 20.0, $context);
    $large = str_repeat('x', 1 << 20);
    same(true, $redis->set('tls:php', $large));
    same($large, $redis->get('tls:php'));
    same([true, 8], $redis->pipeline()->set('tls:php', 7)->incr('tls:php')->exec());
    same([true, 9], $redis->multi()->set('tls:php', 8)->incr('tls:php')->exec());
    same('app', $redis->client('getname'));
    $redis->close();
}
