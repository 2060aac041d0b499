<?php
// Laravel's own Redis layer, with the driver `phpredis` or `predis`: cache, session, lock, rate limiter, and a queue with
// block_for, whose worker is a process of its own.

require __DIR__.'/ledger.php';
foreach (['Redis', 'Cache', 'Session', 'Queue', 'Container'] as $component) {
    require_once "Illuminate/$component/autoload.php";
}

use Illuminate\Cache\RateLimiter;
use Illuminate\Cache\RedisStore;
use Illuminate\Cache\Repository;
use Illuminate\Container\Container;
use Illuminate\Contracts\Cache\LockTimeoutException;
use Illuminate\Contracts\Redis\LimiterTimeoutException;
use Illuminate\Queue\RedisQueue;
use Illuminate\Redis\RedisManager;
use Illuminate\Session\CacheBasedSessionHandler;
use Illuminate\Session\Store;

/** The part `redis` of config/database.php, as an application has it. */
function database_config(): array
{
    $connection = [
        'host' => setting('REDIS_HOST'),
        'password' => setting('REDIS_PASSWORD'),
        'port' => setting('REDIS_PORT'),
        'timeout' => 2,
        'read_timeout' => 20,          // phpredis: longer than hold_timeout and than any block_for
        'read_write_timeout' => 20,    // predis: the same
    ];
    return [
        'options' => ['prefix' => ''],
        'default' => $connection + ['database' => 0],
        'cache' => $connection + ['database' => 1],
    ];
}

/** What a request does with cache, session, lock and rate limiter. */
function request(RedisManager $redis, string $name): void
{
    $cache = new Repository(new RedisStore($redis, "$name:", 'cache'));
    $cache->put('user', ['id' => 7, 'name' => 'Ada'], 60);
    same(['id' => 7, 'name' => 'Ada'], $cache->get('user'));
    $cache->putMany(['a' => 1, 'b' => 2], 60);
    // phpredis leaves numbers numbers, predis returns strings.
    same('{"a":1,"b":2,"c":null}', json_encode($cache->many(['a', 'b', 'c']), JSON_NUMERIC_CHECK));
    same('made', $cache->remember('made', 60, fn () => 'made'));
    $cache->tags(['people'])->put('ada', 'here', 60);
    same('here', $cache->tags(['people'])->get('ada'));
    $cache->tags(['people'])->flush();
    same(null, $cache->tags(['people'])->get('ada'));

    $session = fn () => new Store('app', new CacheBasedSessionHandler($cache, 10), str_repeat('s', 40));
    $first = $session();
    $first->start();
    $first->put('cart', ['book']);
    $first->save();
    $second = $session();
    $second->start();
    same(['book'], $second->get('cart'));

    $lock = $cache->getStore()->lock('invoice', 60);
    same(true, $lock->get());
    same(false, $cache->getStore()->lock('invoice', 60)->get());
    same(true, (bool) $lock->release());

    $limiter = new RateLimiter($cache);
    $limiter->clear('login');
    same(true, $limiter->attempt('login', 1, fn () => true));
    same(false, $limiter->attempt('login', 1, fn () => true));
}

/** What takes its time, once. */
function at_rest(RedisManager $redis, RedisQueue $queue, string $name): void
{
    request($redis, $name);

    $store = new RedisStore($redis, "$name:", 'cache');
    $held = $store->lock('held', 60);
    same(true, $held->get());
    try {
        $store->lock('held', 60)->block(1);
        throw new Error('two hold one lock');
    } catch (LockTimeoutException) {
        $held->release();
    }

    $throttle = fn () => $redis->connection()->throttle("throttle:$name")->allow(1)->every(60)->block(0);
    same('through', $throttle()->then(fn () => 'through'));
    try {
        $throttle()->then(fn () => throw new Error('two got through'));
    } catch (LimiterTimeoutException) {
    }
    same('through', $redis->connection()->funnel("funnel:$name")->limit(1)->block(0)->then(fn () => 'through'));

    $replies = $redis->connection()->pipeline(function ($pipe) use ($name) {
        for ($i = 0; $i < 100; $i++) {
            $pipe->incr("rest:$name");
        }
    });
    same(range(1, 100), $replies);
    $redis->connection()->transaction(fn ($transaction) => $transaction->set("rest:$name", 'exec'));
    same('exec', $redis->connection()->get("rest:$name"));
    same('exec', $redis->connection()->eval("return redis.call('get', KEYS[1])", 1, "rest:$name"));

    $queue->push('Work', ['number' => 1]);
    $queue->later(-1, 'Work', ['number' => 2]);
    same(2, $queue->size());
    $job = $queue->pop();
    same(1, $job->payload()['data']['number']);
    $job->release();
    for ($left = 2; $left > 0; $left--) {
        $queue->pop()->delete();
    }
    same(0, $queue->size());
}

function queue(RedisManager $redis, string $name): RedisQueue
{
    // Of config/queue.php: connection, queue, retry_after, block_for.
    $queue = new RedisQueue($redis, "jobs:$name", 'default', 15, 5);
    $queue->setContainer(new Container());
    $queue->setConnectionName('redis');
    return $queue;
}

/** `queue:work`: each job into the ledger, until there are none and the test says stop. */
function work(RedisManager $redis, string $name): void
{
    $queue = queue($redis, $name);
    while (!stopped() || $queue->size() > 0) {
        try {
            if ($job = $queue->pop()) {
                $redis->connection()->rpush(setting('LEDGER'), $job->payload()['data']['number']);
                $job->delete();
            }
        } catch (RedisException | Predis\Connection\ConnectionException $lost) {
            say("unknown 0 the worker: {$lost->getMessage()}");
        }
    }
}

$driver = $argv[1];
$redis = new RedisManager(new Container(), $driver, database_config());
at_rest($redis, queue($redis, $driver), $driver);

$worker = pcntl_fork();
if ($worker === 0) {
    work(new RedisManager(new Container(), $driver, database_config()), $driver);
    exit(0);
}
$queue = queue($redis, $driver);
keep_ledger(function (int $id) use ($redis, $queue, $driver) {
    $queue->push('Work', ['number' => $id]);
    request($redis, $driver);
    return $id;
});
pcntl_waitpid($worker, $status);
exit($status === 0 ? 0 : 1);
