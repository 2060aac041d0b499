// node-redis with its defaults: RESP3, a reconnect with growing pauses, commands in flight rejected.
'use strict';

const assert = require('node:assert/strict');
const { createClient, WatchError } = require('redis');
const { setting, keepLedger, published } = require('./ledger.cjs');

async function openRedis(more = {}) {
  const client = createClient({
    socket: { host: setting('REDIS_HOST'), port: Number(setting('REDIS_PORT')) },
    password: setting('REDIS_PASSWORD'),
    ...more,
  });
  // Without a listener, an error event ends the process.
  client.on('error', (error) => console.log(`error event: ${error.message}`));
  await client.connect();
  return client;
}

async function atRest(client) {
  const value = 'é'.repeat(100000);
  await client.set('rest:node-redis', value);
  assert.equal(await client.get('rest:node-redis'), value);
  assert.equal(await client.get('rest:nothing'), null);

  const tags = Array.from({ length: 1000 }, (_, i) => `tag ${i}`);
  assert.deepEqual(await Promise.all(tags.map((tag) => client.echo(tag))), tags);
  assert.deepEqual(await client.multi().set('rest:node-redis', '7').incr('rest:node-redis').exec(), ['OK', 8]);

  const other = await openRedis({ database: 3, name: 'other' });
  assert.equal(await other.clientGetName(), 'other');
  await other.set('rest:where', 'three');
  assert.equal(await client.get('rest:where'), null);
  const popped = other.blPop('rest:list', 5);
  await client.sendCommand(['PING']);
  const inThree = await openRedis({ database: 3 });
  await inThree.rPush('rest:list', 'x');
  assert.deepEqual({ ...(await popped) }, { key: 'rest:list', element: 'x' });

  await inThree.watch('rest:where');
  await other.set('rest:where', 'else');
  await assert.rejects(inThree.multi().set('rest:where', 'mine').exec(), WatchError);
  await Promise.all([other.close(), inThree.close()]);

  await client.hSet('rest:node-redis:hash', { a: '1', b: '2' });
  assert.deepEqual({ ...(await client.hGetAll('rest:node-redis:hash')) }, { a: '1', b: '2' });
  await client.zAdd('rest:node-redis:zset', { score: 1.5, value: 'one' });
  assert.equal(await client.zScore('rest:node-redis:zset', 'one'), 1.5);
  const found = [];
  for await (const keys of client.scanIterator({ MATCH: 'rest:node-redis*' })) found.push(...keys);
  assert(found.includes('rest:node-redis:hash'));
  await assert.rejects(client.lPush('rest:node-redis', 'x'), /WRONGTYPE/);
}

async function main() {
  const client = await openRedis();
  await atRest(client);
  const subscriber = await openRedis();
  const heard = {};
  await subscriber.subscribe('news:node-redis', (message) => { heard.last = message; });
  await keepLedger(async (number) => {
    const length = await client.rPush(setting('LEDGER'), String(number));
    await published((message) => client.publish('news:node-redis', message), number, heard);
    return length;
  });
  await Promise.all([client.close(), subscriber.close()]);
}

main();
