// Sends one event; repeating it is harmless. See ../README.md.
//
//   node send.js EVENT_TYPE PAYLOAD [KEY]
//
// The address and the key of the server are in PENSTOCK_URL and PENSTOCK_KEY.
import { randomUUID } from 'node:crypto';
import { argv, env, exit } from 'node:process';
import { setTimeout as sleep } from 'node:timers/promises';

const PATIENCE = 60_000; // milliseconds

// The accepted event. `key` is the same on every try, so the event is stored once.
export async function send(event_type, payload, key = randomUUID()) {
  const deadline = Date.now() + PATIENCE;
  for (let pause = 250; ; pause = Math.min(8_000, pause * 2)) {
    let wait = pause;
    let reason;
    try {
      const answer = await fetch(`${env.PENSTOCK_URL}/v1/events`, {
        method: 'POST',
        headers: {
          Authorization: `Bearer ${env.PENSTOCK_KEY}`,
          'Content-Type': 'application/json',
          'Idempotency-Key': key,
        },
        body: JSON.stringify({ event_type, payload }),
        signal: AbortSignal.timeout(10_000),
      });
      if (answer.ok) return await answer.json();
      if (answer.status !== 429 && answer.status < 500) {
        throw new Refused(`refused: ${await answer.text()}`);
      }
      wait = Math.max(pause, 1_000 * (Number(answer.headers.get('retry-after')) || 0));
      reason = `the server answered ${answer.status}`;
    } catch (error) {
      if (error instanceof Refused) throw error;
      // Nobody knows whether the event was stored. The key makes asking again safe.
      reason = error.cause?.message || error.cause?.code || error.message;
    }
    if (Date.now() + wait > deadline) throw new Error(`not sent: ${reason}`);
    console.error(`${reason}; again in ${wait / 1_000} s`);
    await sleep(wait);
  }
}

class Refused extends Error {}

const [, , event_type, payload, key] = argv;
try {
  const event = await send(event_type, JSON.parse(payload), key);
  console.log(event.event_id);
} catch (error) {
  console.error(error.message);
  exit(1);
}
