'use strict';

const { version } = require('./package.json');
const { version: platformVersion } = require('zapier-platform-core');

const authentication = require('./authentication');
const event = require('./triggers/event');

// Paths are of the connected server; every request carries its key.
const toServer = (request, z, bundle) => {
  if (request.url.startsWith('/')) {
    request.url = bundle.authData.url.replace(/\/+$/, '') + request.url;
    request.headers.Authorization = `Bearer ${bundle.authData.key}`;
  }
  return request;
};

// Problems (RFC 9457) say in a sentence what to do.
const explain = (response, z) => {
  if (response.status === 401) {
    throw new z.errors.Error('The API key was refused.', 'AuthenticationError', 401);
  }
  if (response.status >= 400 && !response.skipThrowForStatus) {
    const { code, detail } = response.json ?? {};
    throw new z.errors.Error(detail ?? `The server answered ${response.status}.`, code, response.status);
  }
  return response;
};

module.exports = {
  version,
  platformVersion,
  authentication,
  beforeRequest: [toServer],
  afterResponse: [explain],
  triggers: { [event.key]: event },
};
