// Reads the inbox: leases events, handles them and acknowledges them. See ../README.md.
//
//   node inbox.js [EVENT_TYPE…]
//
// The address and the key of the server are in PENSTOCK_URL and PENSTOCK_KEY. SIGTERM or Ctrl-C
// ends it once the event at hand is done; the others of its lease are given back.
import process, { argv, env, exit } from 'node:process';
import { setTimeout as sleep } from 'node:timers/promises';

const LIMIT = 10; // events to take at once
const LEASE = 60; // seconds; handling so many events must not take longer
const WAIT = 5; // seconds to wait for an event; ending may take as long
const PAUSE = 2_000; // milliseconds after a failure

const [, , ...event_types] = argv;
let stopping = false;
for (const signal of ['SIGTERM', 'SIGINT']) {
  process.on(signal, () => {
    stopping = true;
  });
}

// Yours: what the event is for. It may come twice; `event_id` tells.
async function handle(event) {
  if (event.payload.order === undefined) throw new Error('there is no order');
  console.log(`${event.event_type} ${event.event_id} order ${event.payload.order}`);
}

class Refused extends Error {}

async function inbox(action, body) {
  const answer = await fetch(`${env.PENSTOCK_URL}/v1/inbox/${action}`, {
    method: 'POST',
    headers: {
      Authorization: `Bearer ${env.PENSTOCK_KEY}`,
      'Content-Type': 'application/json',
    },
    body: JSON.stringify(body),
    signal: AbortSignal.timeout((WAIT + 10) * 1_000),
  });
  if (answer.ok) return await answer.json();
  if (answer.status !== 429 && answer.status < 500) {
    throw new Refused(`refused: ${await answer.text()}`);
  }
  throw new Error(`the server answered ${answer.status}`);
}

// Handles a lease's events; whether any of it could be done.
async function work({ lease_id, events }) {
  const begun = Date.now();
  const done = [];
  for (const event of events) {
    // What is not begun in half of the time is better given back.
    if (stopping || Date.now() - begun > LEASE * 500) break;
    try {
      await handle(event);
      done.push(event.event_id);
    } catch (error) {
      // It is released below and comes again. Yours: put aside what fails for ever.
      console.error(`${event.event_id} failed: ${error.message}`);
    }
  }
  const rest = events.map((event) => event.event_id).filter((id) => !done.includes(id));
  if (done.length) {
    const { results } = await inbox('ack', { event_ids: done, lease_id });
    for (const { event_id, outcome } of results) {
      if (outcome === 'lease_lost') console.error(`${event_id} took too long, and comes again`);
    }
  }
  if (rest.length) await inbox('release', { event_ids: rest, lease_id });
  return done.length > 0;
}

while (!stopping) {
  try {
    const lease = await inbox('lease', {
      event_types,
      limit: LIMIT,
      lease_seconds: LEASE,
      wait: WAIT,
    });
    if (lease.events.length && !(await work(lease))) await sleep(PAUSE);
  } catch (error) {
    if (error instanceof Refused) {
      console.error(error.message);
      exit(1);
    }
    // What was leased meanwhile comes again when its lease is over.
    const reason = error.cause?.message || error.cause?.code || error.message;
    console.error(`${reason}; again in ${PAUSE / 1_000} s`);
    await sleep(PAUSE);
  }
}
