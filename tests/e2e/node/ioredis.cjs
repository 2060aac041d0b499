// ioredis with its defaults: RESP3 if the server has it, commands sent again after a reconnect.
'use strict';

const assert = require('node:assert/strict');
const Redis = require('ioredis');
const { setting, keepLedger, published } = require('./ledger.cjs');

const options = {
  host: setting('REDIS_HOST'),
  port: Number(setting('REDIS_PORT')),
  password: setting('REDIS_PASSWORD'),
};

function openRedis(more = {}) {
  const redis = new Redis({ ...options, ...more });
  redis.on('error', (error) => console.log(`error event: ${error.message}`));
  return redis;
}

async function atRest(redis) {
  const bytes = Buffer.from(Array.from({ length: 100000 }, (_, i) => i % 256));
  await redis.set('rest:ioredis', bytes);
  assert.deepEqual(await redis.getBuffer('rest:ioredis'), bytes);
  assert.equal(await redis.get('rest:nothing'), null);

  const tags = Array.from({ length: 1000 }, (_, i) => `tag ${i}`);
  assert.deepEqual(await Promise.all(tags.map((tag) => redis.echo(tag))), tags);
  const pipelined = await redis.pipeline().set('rest:ioredis', 7).incr('rest:ioredis').exec();
  assert.deepEqual(pipelined, [[null, 'OK'], [null, 8]]);
  assert.deepEqual(await redis.multi().incr('rest:ioredis').incr('rest:ioredis').exec(), [[null, 9], [null, 10]]);

  const automatic = openRedis({ enableAutoPipelining: true, db: 3 });
  assert.deepEqual(await Promise.all(tags.map((tag) => automatic.set(tag, tag))), tags.map(() => 'OK'));
  assert.deepEqual(await Promise.all(tags.map((tag) => automatic.get(tag))), tags);
  assert.equal(await redis.get('tag 1'), null, 'the other database');
  await automatic.quit();

  const other = redis.duplicate();
  const popped = other.blpop('rest:ioredis:list', 5);
  await redis.rpush('rest:ioredis:list', 'x');
  assert.deepEqual(await popped, ['rest:ioredis:list', 'x']);
  await redis.watch('rest:ioredis');
  await other.incr('rest:ioredis');
  assert.equal(await redis.multi().incr('rest:ioredis').exec(), null, 'WATCH');
  await other.quit();

  redis.defineCommand('twice', { numberOfKeys: 1, lua: "return {redis.call('incr', KEYS[1]), redis.call('incr', KEYS[1])}" });
  assert.deepEqual(await redis.twice('rest:ioredis'), [12, 13]);
  await redis.hset('rest:ioredis:hash', { a: '1', b: '2' });
  assert.deepEqual(await redis.hgetall('rest:ioredis:hash'), { a: '1', b: '2' });
  const found = [];
  for await (const keys of redis.scanStream({ match: 'rest:ioredis*', count: 10 })) found.push(...keys);
  assert(found.includes('rest:ioredis:hash'));
}

async function main() {
  const redis = openRedis();
  await atRest(redis);
  const subscriber = redis.duplicate();
  const heard = {};
  subscriber.on('message', (channel, message) => { heard.last = message; });
  await subscriber.subscribe('news:ioredis');
  await keepLedger(async (number) => {
    const length = await redis.rpush(setting('LEDGER'), number);
    await published((message) => redis.publish('news:ioredis', message), number, heard);
    return length;
  });
  await Promise.all([redis.quit(), subscriber.quit()]);
}

main();
