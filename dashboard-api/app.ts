import swagger from '@fastify/swagger';
import swaggerUi from '@fastify/swagger-ui';
import type { TypeBoxTypeProvider } from '@fastify/type-provider-typebox';
import { fastify } from 'fastify';
import { SECOND_MS } from '../devices/clock.ts';
import { DownlinkError } from '../devices/downlink-error.ts';
import type { Api, ApiParts } from './api-parts.ts';
import { answerClientError, endIdle } from './client-errors.ts';
import { commandSchema } from './command-view.ts';
import { endAfterAnswer } from './departure.ts';
import { deviceSchema } from './device-view.ts';
import { readBodiesAsJson, readBodiesAsOctets } from './json-body.ts';
import { openapiOptions, problemSchema } from './openapi.ts';
import { boundPipelined } from './pipelined.ts';
import { errorHandler, sendProblem, downlinkErrorOf } from './problem.ts';
import { boundOpenRequests } from './rate-bounds.ts';
import { deviceErrorHandler } from './reject-keeper.ts';
import { auditRoutes, auditSchema } from './routes/audit.ts';
import { backupRoutes } from './routes/backup.ts';
import { commandsRoutes } from './routes/commands.ts';
import { deviceCommandsRoutes } from './routes/device-commands.ts';
import { deviceEventsRoutes } from './routes/device-events.ts';
import { deviceSyncRoutes } from './routes/device-sync.ts';
import { deviceTelemetryRoutes } from './routes/device-telemetry.ts';
import { devicesRoutes } from './routes/devices.ts';
import { fleetKeySchema, fleetKeysRoutes } from './routes/fleet-keys.ts';
import { keySchema, keysRoutes } from './routes/keys.ts';
import { provisionRoutes } from './routes/provision.ts';
import { refusedRoutes } from './routes/refused.ts';
import { serverRoutes } from './routes/server.ts';
import { streamRoutes } from './routes/stream.ts';
import { telemetryRoutes } from './routes/telemetry.ts';
import { DeviceStreams } from './stream/device-streams.ts';
import { LiveStreams } from './stream/live-streams.ts';
import { leaveTogether } from './turn-end.ts';
import { validatorCompiler } from './validation.ts';

/** How often slow requests are looked for. */
const CHECK_EVERY_MS = 1_000;
const PARAM_CHARS_MAX = 256;
export const CLOSE_MS_MAX = 5_000;
const CLOSE_IDLE_EVERY_MS = 50;
const RETRY_SECONDS = 5;
/** All that the pages need comes from this server. */
const DOCS_CSP = "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'self'; frame-ancestors 'self'";

/** The HTTP API, whole: what every request goes through, and the routes by name. It does not listen yet. */
export async function createApp(parts: ApiParts): Promise<Api> {
  const { bounds } = parts.limits;
  const boundOpen = boundOpenRequests(parts);
  const app: Api = fastify({
    bodyLimit: bounds.body_bytes,
    requestTimeout: bounds.request_seconds * SECOND_MS,
    keepAliveTimeout: bounds.http_idle_seconds * SECOND_MS,
    http: {
      headersTimeout: bounds.header_seconds * SECOND_MS,
      maxHeaderSize: bounds.header_bytes,
      connectionsCheckingInterval: CHECK_EVERY_MS,
    },
    trustProxy: (address) => parts.limits.proxies.has(address),
    routerOptions: { maxParamLength: PARAM_CHARS_MAX },
    // A HEAD would lease commands and open streams.
    exposeHeadRoutes: false,
    // Ours says so as a problem document.
    return503OnClosing: false,
    clientErrorHandler: answerClientError(parts.limits),
    frameworkErrors: (error, _, reply) => void sendProblem(reply, downlinkErrorOf(error)),
  }).withTypeProvider<TypeBoxTypeProvider>();
  app.server.on('timeout', endIdle(parts.limits));
  app.setValidatorCompiler(validatorCompiler);
  app.setSerializerCompiler(() => JSON.stringify);
  app.setErrorHandler(errorHandler(parts));
  app.setNotFoundHandler({ preHandler: boundOpen }, (request, reply) => {
    void sendProblem(
      reply,
      new DownlinkError('not_found', `there is no ${request.method} ${request.url.split('?', 1)[0]?.slice(0, 200)}`),
    );
  });
  app.addHook('onRequest', boundPipelined(parts));
  app.decorateRequest('operator', undefined);
  app.decorateRequest('device', undefined);
  app.decorateRequest('fleetKey', undefined);
  readBodiesAsJson(app);

  const streams = new LiveStreams(parts.events, parts.access, parts.limits);
  parts.metrics.gauge('downlink_live_streams', 'Open live streams', () => streams.size);
  const deviceStreams = new DeviceStreams(parts, parts.limits);
  parts.metrics.gauge('downlink_device_streams', 'Open event streams of devices', () => deviceStreams.size);
  const stopping = refuseWhileStopping(app, () => {
    streams.close();
    deviceStreams.close();
    parts.parkedPolls.close();
  });

  app.addHook('onSend', leaveTogether(stopping));
  for (const schema of [problemSchema, deviceSchema, commandSchema, keySchema, fleetKeySchema, auditSchema])
    app.addSchema(schema);
  app.addHook('onRoute', (route) => {
    if (!route.url.startsWith('/v1/')) route.onRequest = [boundOpen, ...[route.onRequest ?? []].flat()];
  });
  await app.register(swagger, openapiOptions(parts.version));
  await app.register(swaggerUi, {
    routePrefix: '/docs',
    theme: { title: 'Downlink API' },
    staticCSP: DOCS_CSP,
    uiConfig: { deepLinking: true, persistAuthorization: true, layout: 'BaseLayout' },
  });
  app.addHook('onRoute', refuseUnknownParameters);

  devicesRoutes(app, parts);
  commandsRoutes(app, parts, stopping);
  telemetryRoutes(app, parts);
  refusedRoutes(app, parts);
  streamRoutes(app, parts, streams);
  keysRoutes(app, parts);
  fleetKeysRoutes(app, parts);
  provisionRoutes(app, parts);
  auditRoutes(app, parts);
  backupRoutes(app, parts, stopping);
  serverRoutes(app, parts);
  await app.register(async (devices: Api) => {
    readBodiesAsOctets(devices);
    devices.setErrorHandler(deviceErrorHandler(parts));
    deviceTelemetryRoutes(devices, parts);
    deviceCommandsRoutes(devices, parts);
    deviceEventsRoutes(devices, parts, deviceStreams);
    deviceSyncRoutes(devices, parts);
  });
  await app.ready();
  return app;
}

/** From `app.close()` on: new requests get 503, what waits ends by `endWaits`, what is under way may finish for a while. */
function refuseWhileStopping(app: Api, endWaits: () => void): AbortSignal {
  const stopping = new AbortController();
  app.addHook('onRequest', (_, reply, done) => {
    if (!stopping.signal.aborted) return done();
    endAfterAnswer(reply);
    done(new DownlinkError('shutting_down', 'the server is stopping', { retryAfterSeconds: RETRY_SECONDS }));
  });
  const timers: NodeJS.Timeout[] = [];
  app.addHook('preClose', (done) => {
    stopping.abort();
    endWaits();
    // A connection that was at work when the server closed goes idle after its answer, and would be waited for.
    timers.push(setInterval(() => app.server.closeIdleConnections(), CLOSE_IDLE_EVERY_MS));
    timers.push(setTimeout(() => app.server.closeAllConnections(), CLOSE_MS_MAX));
    done();
  });
  app.addHook('onClose', (_, done) => {
    for (const timer of timers) clearTimeout(timer);
    done();
  });
  return stopping.signal;
}

/** A route of ours that names no parameters takes none. */
function refuseUnknownParameters(route: { url: string; schema?: { querystring?: unknown } }): void {
  if (!route.url.startsWith('/v1/')) return;
  route.schema = { querystring: { type: 'object', properties: {}, additionalProperties: false }, ...route.schema };
}
