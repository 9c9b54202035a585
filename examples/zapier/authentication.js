'use strict';

// The key needs the scopes endpoints:write and events:read.
const test = (z) => z.request({ url: '/v1/hooks/samples' });

module.exports = {
  type: 'custom',
  fields: [
    {
      key: 'url',
      label: 'Address',
      type: 'string',
      required: true,
      helpText: 'Where your Penstock answers, such as https://penstock.example.com.',
    },
    {
      key: 'key',
      label: 'API key',
      type: 'password',
      required: true,
      helpText:
        'Made with `penstock keys create --name zapier --scopes endpoints:write,events:read`.',
    },
  ],
  test,
  connectionLabel: '{{bundle.authData.url}}',
};
