'use strict';

// Zapier hands the answer back to `unsubscribe` as bundle.subscribeData.
const subscribe = async (z, bundle) => {
  const response = await z.request({
    method: 'POST',
    url: '/v1/hooks',
    body: { target_url: bundle.targetUrl, event: bundle.inputData.event },
  });
  return response.data;
};

const unsubscribe = async (z, bundle) => {
  const response = await z.request({
    method: 'DELETE',
    url: `/v1/hooks/${encodeURIComponent(bundle.subscribeData.id)}`,
    skipThrowForStatus: true,
  });
  // 404: it is gone already, which is what was wanted.
  if (response.status !== 204 && response.status !== 404) response.throwForStatus();
  return { id: bundle.subscribeData.id };
};

// One push is one event. Zapier adds `querystring` to the body; the fields are picked.
const perform = (z, bundle) => {
  const { event_id, event_type, payload, metadata, created_at } = bundle.cleanedRequest;
  return [{ id: event_id, event_id, event_type, payload, metadata, created_at }];
};

// What the Zap editor shows while somebody sets the Zap up.
const performList = async (z, bundle) => {
  const response = await z.request({
    url: '/v1/hooks/samples',
    params: { event: bundle.inputData.event },
  });
  return response.data;
};

module.exports = {
  key: 'event',
  noun: 'Event',
  display: {
    label: 'New Event',
    description: 'Triggers when Penstock accepts an event of a type that you choose.',
  },
  operation: {
    type: 'hook',
    inputFields: [
      {
        key: 'event',
        label: 'Event Type',
        type: 'string',
        required: true,
        default: '*',
        helpText: 'An event type such as `order.created`, a prefix such as `order.*`, or `*`.',
      },
    ],
    performSubscribe: subscribe,
    performUnsubscribe: unsubscribe,
    perform,
    performList,
    sample: {
      id: 'evt_06f7q9y1e4c8w2m5r0z3t6v9b1',
      event_id: 'evt_06f7q9y1e4c8w2m5r0z3t6v9b1',
      event_type: 'order.created',
      payload: { order: 1042 },
      metadata: null,
      created_at: '2026-01-02T03:04:05.678901Z',
    },
    outputFields: [
      { key: 'id', label: 'ID' },
      { key: 'event_type', label: 'Event Type' },
      { key: 'created_at', label: 'Accepted At', type: 'datetime' },
    ],
  },
};
