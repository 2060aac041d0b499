// ioredis and node-redis by TLS, with a certificate of their own.
'use strict';

const assert = require('node:assert/strict');
const fs = require('node:fs');
const Redis = require('ioredis');
const { createClient } = require('redis');

const { REDIS_PORT, TLS_CA, TLS_CERT, TLS_KEY } = process.env;
const [ca, cert, key] = [TLS_CA, TLS_CERT, TLS_KEY].map((file) => fs.readFileSync(file));
const large = 'x'.repeat(1 << 20);

async function withIoredis() {
  const redis = new Redis({ host: 'localhost', port: Number(REDIS_PORT), tls: { ca, cert, key } });
  assert.equal(await redis.set('tls:node', large), 'OK');
  assert.equal(await redis.get('tls:node'), large);
  assert.deepEqual(await redis.pipeline().set('tls:node', 7).incr('tls:node').exec(), [[null, 'OK'], [null, 8]]);
  await redis.quit();
}

async function withNodeRedis() {
  const socket = { host: 'localhost', port: Number(REDIS_PORT), tls: true, ca, cert, key };
  const client = await createClient({ socket }).connect();
  assert.equal(await client.set('tls:node', large), 'OK');
  assert.equal(await client.get('tls:node'), large);
  assert.deepEqual(await client.multi().set('tls:node', 7).incr('tls:node').exec(), ['OK', 8]);
  await client.close();
}

withIoredis().then(withNodeRedis);
