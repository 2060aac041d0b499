// ioredis: `again`, its default, sends commands that were not answered once more after a reconnect; `once` does not.
'use strict';

const assert = require('node:assert/strict');
const Redis = require('ioredis');
const { setting, keepLedger, published } = require('./ledger.cjs');

const options = {
  host: setting('REDIS_HOST'),
  port: Number(setting('REDIS_PORT')),
  password: setting('REDIS_PASSWORD'),
};
const mode = process.argv[2];
if (mode === 'once') options.maxRetriesPerRequest = 0;
const key = (name) => `rest:ioredis:${mode}${name}`;

function openRedis(more = {}) {
  const redis = new Redis({ ...options, ...more });
  redis.on('error', (error) => console.log(`error event: ${error.message}`));
  return redis;
}

async function atRest(redis) {
  const bytes = Buffer.from(Array.from({ length: 100000 }, (_, i) => i % 256));
  await redis.set(key(''), bytes);
  assert.deepEqual(await redis.getBuffer(key('')), bytes);
  assert.equal(await redis.get('rest:nothing'), null);

  const tags = Array.from({ length: 1000 }, (_, i) => `tag ${i}`);
  assert.deepEqual(await Promise.all(tags.map((tag) => redis.echo(tag))), tags);
  const pipelined = await redis.pipeline().set(key(''), 7).incr(key('')).exec();
  assert.deepEqual(pipelined, [[null, 'OK'], [null, 8]]);
  assert.deepEqual(await redis.multi().incr(key('')).incr(key('')).exec(), [[null, 9], [null, 10]]);

  const automatic = openRedis({ enableAutoPipelining: true, db: 3 });
  assert.deepEqual(await Promise.all(tags.map((tag) => automatic.set(tag, tag))), tags.map(() => 'OK'));
  assert.deepEqual(await Promise.all(tags.map((tag) => automatic.get(tag))), tags);
  assert.equal(await redis.get('tag 1'), null, 'the other database');
  await automatic.quit();

  const other = redis.duplicate();
  const popped = other.blpop(key(':list'), 5);
  await redis.rpush(key(':list'), 'x');
  assert.deepEqual(await popped, [key(':list'), 'x']);
  await redis.watch(key(''));
  await other.incr(key(''));
  assert.equal(await redis.multi().incr(key('')).exec(), null, 'WATCH');
  await other.quit();

  redis.defineCommand('twice', { numberOfKeys: 1, lua: "return {redis.call('incr', KEYS[1]), redis.call('incr', KEYS[1])}" });
  assert.deepEqual(await redis.twice(key('')), [12, 13]);
  await redis.hset(key(':hash'), { a: '1', b: '2' });
  assert.deepEqual(await redis.hgetall(key(':hash')), { a: '1', b: '2' });
  const found = [];
  for await (const keys of redis.scanStream({ match: key('*'), count: 10 })) found.push(...keys);
  assert(found.includes(key(':hash')));
}

async function main() {
  const redis = openRedis();
  await atRest(redis);
  const subscriber = redis.duplicate();
  const heard = {};
  subscriber.on('message', (channel, message) => { heard.last = message; });
  await subscriber.subscribe(key(':news'));
  await keepLedger(async (number) => {
    const length = await redis.rpush(setting('LEDGER'), number);
    await published((message) => redis.publish(key(':news'), message), number, heard);
    return length;
  });
  await Promise.all([redis.quit(), subscriber.quit()]);
}

main();
