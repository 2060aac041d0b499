// ioredis: what becomes of an error reply that pointsman makes. It has to be a rejection, never a value.
'use strict';

const fs = require('node:fs');
const Redis = require('ioredis');
const { setTimeout: pause } = require('node:timers/promises');
const { setting } = require('./ledger.cjs');

const openRedis = (more = {}) => {
  const redis = new Redis({ host: setting('REDIS_HOST'), port: Number(setting('REDIS_PORT')), ...more });
  redis.on('error', (error) => console.log(`error event: ${error.message}`));
  return redis;
};

async function waitForGo() {
  console.log('ready');
  while (!fs.existsSync(setting('STOP_FILE'))) await pause(10);
}

async function provoke(error) {
  if (['TooManyClients', 'Denied'].includes(error)) {
    await waitForGo();
    // By default it tries twenty times, for ten seconds.
    return openRedis({ maxRetriesPerRequest: 3 }).get('key');
  }
  const user = { username: process.env.REDIS_USER, password: setting('REDIS_PASSWORD') };
  const redis = openRedis(['TransactionLost', 'StaleCursor', 'WaitUnknown'].includes(error) ? user : {});
  await redis.ping();
  if (error === 'TransactionLost') {
    await redis.multi({ pipeline: false });
    await redis.set('errors:node', 1);
  }
  if (error === 'WaitUnknown') await redis.incr('errors:node:waited');
  const [cursor] = error === 'StaleCursor' ? await redis.scan(0, 'COUNT', 1) : [];
  await waitForGo();
  switch (error) {
    case 'NoMaster': return redis.get('key');
    case 'PinLimit': return redis.blpop('key', 1);
    case 'Refused': return redis.replicaof('NO', 'ONE');
    case 'TransactionLost': return redis.exec();
    case 'StaleCursor': return redis.scan(cursor);
    case 'WaitUnknown': return redis.wait(1, 10);
  }
}

provoke(process.argv[2])
  .then((value) => console.log('value', value), (error) => console.log(`threw ${error.name} ${error.message}`))
  .finally(() => process.exit());
