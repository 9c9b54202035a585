'use strict';

// Plays a Zap against a running server: PENSTOCK_URL=… PENSTOCK_KEY=… npm test
const assert = require('node:assert/strict');
const { createServer } = require('node:http');
const { after, before, test } = require('node:test');

const zapier = require('zapier-platform-core');

const App = require('../index');

const appTester = zapier.createAppTester(App);
const { operation } = App.triggers.event;
const authData = { url: process.env.PENSTOCK_URL, key: process.env.PENSTOCK_KEY };
const type = `zapier${Date.now()}.order`;

// Stands for the address at which Zapier catches pushes of one Zap.
const pushed = [];
let answer = 200;
const zap = createServer((request, response) => {
  const chunks = [];
  request.on('data', (chunk) => chunks.push(chunk));
  request.on('end', () => {
    pushed.push(JSON.parse(Buffer.concat(chunks)));
    response.writeHead(answer).end('{"status": "success"}');
  });
});
const catchUrl = () => `http://127.0.0.1:${zap.address().port}/hooks/standard/1/${type}/`;

before(() => new Promise((listening) => zap.listen(0, '127.0.0.1', listening)));
after(() => {
  zap.closeAllConnections();
  zap.close();
});

const call = async (method, path, body, headers = {}) => {
  const response = await fetch(authData.url + path, {
    method,
    headers: {
      Authorization: `Bearer ${authData.key}`,
      'Content-Type': 'application/json',
      ...headers,
    },
    body: body && JSON.stringify(body),
  });
  return { status: response.status, data: response.status === 204 ? null : await response.json() };
};

// Answers once every delivery of the event was tried.
const send = async (event_type, payload) => {
  const { status, data } = await call(
    'POST', '/v1/events', { event_type, payload }, { Prefer: 'wait=15' },
  );
  assert.equal(status, 202);
  return data;
};

const subscribe = (event) =>
  appTester(operation.performSubscribe, { authData, inputData: { event }, targetUrl: catchUrl() });
const unsubscribe = (subscribeData) =>
  appTester(operation.performUnsubscribe, { authData, subscribeData, targetUrl: catchUrl() });
const list = (event) => appTester(operation.performList, { authData, inputData: { event } });

test('the definition is one that Zapier takes', () => {
  const { validateAppDefinition } = require('zapier-platform-schema');
  // Functions are sent to Zapier by their places.
  const definition = JSON.parse(
    JSON.stringify(App, (_, value) => (typeof value === 'function' ? { source: 'return 1' } : value)),
  );
  assert.deepEqual(validateAppDefinition(definition).errors, []);
});

test('a connection is tested by a request', async () => {
  const response = await appTester(App.authentication.test, { authData });
  assert.equal(response.status, 200);
  await assert.rejects(
    appTester(App.authentication.test, { authData: { ...authData, key: 'psk_wrong' } }),
    /refused/,
  );
});

test('a Zap is turned on, triggered, and turned off', async () => {
  assert.deepEqual(await list(`${type}.*`), []);

  const subscribeData = await subscribe(`${type}.*`);
  assert.match(subscribeData.id, /^end_/);
  assert.equal((await subscribe(`${type}.*`)).id, subscribeData.id);

  const sent = await send(`${type}.created`, { order: 1042 });
  assert.equal(sent.status, 'delivered');
  assert.equal(pushed.length, 1);

  const items = await appTester(operation.perform, {
    authData,
    subscribeData,
    inputData: { event: `${type}.*` },
    cleanedRequest: { ...pushed[0], querystring: {} },
  });
  assert.deepEqual(items, [{ id: sent.event_id, ...pushed[0] }]);
  assert.deepEqual(items[0].payload, { order: 1042 });

  // The samples of the editor are what a push brings.
  assert.deepEqual(await list(`${type}.*`), items);
  assert.deepEqual(await list(`${type}.created`), items);

  await unsubscribe(subscribeData);
  await unsubscribe(subscribeData);
  await send(`${type}.created`, { order: 1043 });
  assert.equal(pushed.length, 1);
});

test('410, which a Zap that was deleted answers, ends the pushes', async () => {
  const { id } = await subscribe(`${type}.gone`);
  answer = 410;
  await send(`${type}.gone`, {});
  answer = 200;
  const { data } = await call('GET', `/v1/endpoints/${id}`);
  assert.deepEqual([data.enabled, data.disabled_reason], [false, 'gone']);

  assert.equal((await subscribe(`${type}.gone`)).id, id);
  assert.equal((await send(`${type}.gone`, {})).status, 'delivered');
  await unsubscribe({ id });
});

test('what the server refuses is told in its words', async () => {
  await assert.rejects(subscribe('no spaces here'), /should match pattern.*\/event/);
});
