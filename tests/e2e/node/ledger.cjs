// What the JavaScript programs here share: the lines by which the test follows their ledger.
'use strict';

const fs = require('node:fs');
const assert = require('node:assert/strict');
const { setTimeout: pause } = require('node:timers/promises');

const setting = (name) => process.env[name] ?? assert.fail(`${name} is not set`);

// Writes numbers until the test says stop. push(number) writes one and returns Redis' answer to RPUSH, or rejects.
async function keepLedger(push) {
  console.log('ready');
  for (let number = 1; !fs.existsSync(setting('STOP_FILE')); number++) {
    let length;
    try {
      length = await push(number);
    } catch (error) {
      // An error reply begins with its code; whatever else rejects is a connection that was lost.
      const refused = /^[A-Z]+ /.test(error.message);
      console.log(`${refused ? 'refused' : 'unknown'} ${number} ${error.message}`);
      continue;
    }
    assert(length > 0, `RPUSH: ${length}`);
    console.log(`acknowledged ${number}`);
    await pause(10);
  }
}

// Publishes until the message is heard: what is published during a switch may be missed.
async function published(publish, number, heard) {
  const end = Date.now() + 30000;
  while (heard.last !== String(number)) {
    assert(Date.now() < end, `${number} not heard`);
    await publish(String(number));
    for (let i = 0; i < 20 && heard.last !== String(number); i++) await pause(10);
  }
}

module.exports = { setting, keepLedger, published };
