// Takes webhooks: verifies them, and does the work of each event once. See ../README.md.
//
//   node receive.js [PORT] [FILE]
//
// The endpoint's secret is in WEBHOOK_SECRET; FILE remembers which events were done.
import { appendFileSync, existsSync, readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { argv, env } from 'node:process';

import { Webhook, WebhookVerificationError } from 'standardwebhooks';

const LARGEST = 2 ** 20; // bytes
const [, , port = '9000', file = 'received.txt'] = argv;

const webhook = new Webhook(env.WEBHOOK_SECRET);
const seen = new Set(existsSync(file) ? readFileSync(file, 'utf8').split('\n') : []);

// Yours: what the event is for. With a database, store the id and the work in one transaction.
// Here a crash between the two lines below does the work a second time.
function take(id, event) {
  if (seen.has(id)) return false;
  console.log(`${event.event_type} ${event.event_id} ${JSON.stringify(event.payload)}`);
  appendFileSync(file, `${id}\n`);
  seen.add(id);
  return true;
}

async function bodyOf(request) {
  const chunks = [];
  let size = 0;
  for await (const chunk of request) {
    size += chunk.length;
    if (size > LARGEST) throw new Error('the body is too large');
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}

const server = createServer(async (request, response) => {
  let status = 204;
  try {
    // The bytes as they came: a body that was parsed and written again has other bytes.
    const event = webhook.verify(await bodyOf(request), request.headers);
    const id = request.headers['webhook-id'];
    if (!take(id, event)) console.log(`${event.event_type} ${id} again: nothing to do`);
  } catch (error) {
    // After 500 the event comes again.
    status = error instanceof WebhookVerificationError ? 401 : 500;
    console.log(`refused: ${error.message}`);
  }
  response.writeHead(status).end();
});
server.listen(Number(port), '127.0.0.1');
