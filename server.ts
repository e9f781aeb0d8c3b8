import { randomBytes } from 'node:crypto';
import type { AddressInfo } from 'node:net';
import type { Server as TlsServer } from 'node:tls';
import type { Logger } from 'pino';
import { CommandIssuer } from './broker/commands/issue-command.ts';
import { CommandLedger } from './broker/commands/command-ledger.ts';
import { ParkedPolls } from './broker/commands/parked-polls.ts';
import { CommandPull } from './broker/commands/pull.ts';
import { QueueChanges } from './broker/commands/queue-changes.ts';
import { DeviceSync } from './broker/commands/sync.ts';
import { CommandQueries } from './broker/commands/command-queries.ts';
import { SleepAdvisor } from './broker/commands/sleep-advisor.ts';
import { sweepEnded } from './broker/commands/command-store.ts';
import { DeliveryGate } from './broker/commands/delivery-gate.ts';
import { Dispatcher } from './broker/commands/dispatcher.ts';
import { Notifier } from './broker/commands/notifier.ts';
import { Audit } from './broker/audit.ts';
import { Backups } from './broker/backup/backups.ts';
import type { Config } from './broker/config.ts';
import type { Port } from './broker/config-tls.ts';
import { historyFolder, prepareDataFolder, StartError, startErrorOf, stateFolder } from './broker/data-folder.ts';
import { CONNECT_BACKLOG } from './broker/limits/connection-gate.ts';
import { Limits } from './broker/limits/limits.ts';
import { LiveEvents } from './broker/live-events.ts';
import { openLog } from './broker/log.ts';
import { Metrics } from './broker/metrics.ts';
import { Connections } from './broker/mqtt/connections.ts';
import { DeviceMessages } from './broker/mqtt/device-messages.ts';
import { JournalRoom } from './broker/mqtt/journal-room.ts';
import { MqttServer } from './broker/mqtt/mqtt-server.ts';
import { Authenticator } from './broker/mqtt/authenticate.ts';
import { Programs } from './broker/mqtt/programs.ts';
import { ReceivedMessages } from './broker/mqtt/received-messages.ts';
import { BOUND_OF, sessionBoundsOf, type OnReached } from './broker/mqtt/sessions/session-bounds.ts';
import { SessionStore } from './broker/mqtt/sessions/session-store.ts';
import { MqttWebSocket } from './broker/mqtt/websocket.ts';
import { fill, loopDelay, Overload } from './broker/overload.ts';
import { ensureAdminKey } from './broker/registry/admin-key.ts';
import { DeviceLogin } from './broker/registry/device-login.ts';
import { DeviceRegistry } from './broker/registry/device-registry.ts';
import { FleetKeys } from './broker/registry/fleet-keys.ts';
import { IdentityProvider } from './broker/registry/identity-provider.ts';
import { OperatorAccess } from './broker/registry/operator-access.ts';
import { OperatorKeys } from './broker/registry/operator-keys.ts';
import { PresenceTracker } from './broker/registry/presence-tracker.ts';
import { SecretDigests } from './broker/registry/secrets.ts';
import { readiness } from './broker/readiness.ts';
import { recoverState, type Recovered } from './broker/recover.ts';
import { recordRestore, type Restored } from './broker/backup/restore.ts';
import { RefusedLogins } from './broker/refused-logins.ts';
import { observe } from './broker/observe.ts';
import type { History } from './broker/store/history.ts';
import { HistoryPace } from './broker/store/history-pace.ts';
import { InfluxHistory } from './broker/store/influx/influx-history.ts';
import { LevelHistory } from './broker/store/level/level-history.ts';
import { LevelState } from './broker/store/level/level-state.ts';
import { Quarantine } from './broker/store/quarantine.ts';
import { Shipper } from './broker/store/shipper.ts';
import { DeviceClocks } from './broker/telemetry/device-clocks.ts';
import { Ingest } from './broker/telemetry/ingest.ts';
import { LatestValues } from './broker/telemetry/latest-values.ts';
import { Rejects } from './broker/telemetry/rejects.ts';
import { TelemetryKeys } from './broker/telemetry/telemetry-keys.ts';
import { TlsFileError } from './broker/tls/tls-material.ts';
import { TlsPorts } from './broker/tls/tls-ports.ts';
import { CLOSE_MS_MAX, createApp } from './dashboard-api/app.ts';
import { SECURE_PROTOCOLS, SecureHttp } from './dashboard-api/secure-http.ts';
import { UnreadAnswers } from './dashboard-api/unread-answers.ts';
import { TimeMark } from './broker/time-mark.ts';
import { HOUR_MS, type Clock } from './devices/clock.ts';
import { uuidV7Source } from './devices/uuid-v7.ts';

/** The one place that sees every part and wires them. */
export type Server = {
  /** Undefined: off. */
  readonly httpPort: number | undefined;
  readonly mqttPort: number | undefined;
  readonly httpsPort: number | undefined;
  readonly mqttsPort: number | undefined;
  /** The admin key, where it is known: from the environment or its file. */
  readonly adminKey: string | undefined;
  /** This start made the admin key. */
  readonly isFirstStart: boolean;
  /** Open commands that were found. */
  readonly openCommands: number;
  /** What `recover` found. */
  readonly recovered: Recovered | undefined;
  /** Finishes what was taken and lets go of everything. Closing twice is harmless. */
  close(): Promise<void>;
};

export type StartOptions = {
  /** State was lost: builds the open commands again from History. */
  readonly recover?: boolean;
  /** What was restored just before this start. */
  readonly restored?: Restored;
};

export const VERSION = '0.1.0';
const SWEEP_EVERY_MS = HOUR_MS;
/** What is bounded weighs upon the server from half of its bound on. */
const PRESSURE_FROM = 0.5;

/** Throws StartError when a port or the data folder cannot be had. */
export async function startServer(
  config: Config,
  clock: Clock = { now: () => Date.now() },
  options: StartOptions = {},
): Promise<Server> {
  const log = openLog(config.logLevel);
  const closers: (() => Promise<unknown> | void)[] = [];
  let closing: Promise<void> | undefined;
  const close = (): Promise<void> => (closing ??= closeAll(closers, log));
  try {
    return { ...(await wire(config, clock, options, log, closers)), close };
  } catch (error) {
    await close();
    throw error;
  }
}

async function wire(
  config: Config,
  clock: Clock,
  { recover = false, restored }: StartOptions,
  log: Logger,
  closers: (() => Promise<unknown> | void)[],
): Promise<Omit<Server, 'close'>> {
  await prepareDataFolder(config.dataDir);
  const metrics = new Metrics();
  const limits = new Limits(config.bounds, config.trustedProxies, metrics, log);
  closers.push(() => limits.close());
  const tls = await TlsPorts.open(config.tls, { metrics, log, clock }).catch((error: unknown) => {
    throw error instanceof TlsFileError ? new StartError(error.message) : error;
  });
  closers.push(() => tls.close());
  const onDamage = (line: string): void => {
    metrics.damage.inc();
    log.warn(`damage: ${line}`);
  };

  const state = await LevelState.open({
    folder: stateFolder(config.dataDir),
    journalBytesMax: config.journalBytesMax,
    clock,
    onDamage,
  }).catch((error: unknown) => {
    throw startErrorOf(error, stateFolder(config.dataDir));
  });
  closers.push(() => state.close());
  const history = await openHistory(config, onDamage);
  closers.push(() => history.close());

  const mark = await TimeMark.load(state);
  const newId = uuidV7Source(mark.clockFrom(clock));
  const received = new ReceivedMessages(state, config.bounds.received_messages, (deviceId, error) =>
    connections.refusedMessage('received_messages', deviceId, error),
  );
  await received.load();
  const digests = await SecretDigests.open(state);
  const keys = new OperatorKeys(state, digests, clock, newId, limits);
  closers.push(() => keys.close());
  const registry = new DeviceRegistry(state, digests, clock);
  const deviceLogin = new DeviceLogin(registry, tls.deviceAuth);
  const fleetKeys = new FleetKeys(state, digests, registry, clock, newId, limits);
  const access = new OperatorAccess(keys, clock);
  closers.push(() => access.close());
  const audit = new Audit(state, clock, config.bounds.audit_entries, (kind, count) =>
    limits.reached('audit_entries', { kind }, count),
  );
  const refusedLogins = new RefusedLogins(audit);
  closers.push(() => refusedLogins.flush());
  const backups = new Backups({ state, history, metrics, clock, log, version: VERSION });
  const identityProvider = config.oidc.enabled ? new IdentityProvider(config.oidc, clock) : undefined;
  const events = new LiveEvents(randomBytes(4).toString('hex'), clock);
  const presence = new PresenceTracker(registry, state, events, clock);
  const quarantine = new Quarantine(state, metrics, clock);
  const rejects = new Rejects(state, clock);
  await keys.load();
  await registry.load();
  await fleetKeys.load();
  await audit.load();
  if (restored !== undefined) await recordRestore(audit, restored);
  await backups.load();
  await presence.load();
  await quarantine.load();
  await rejects.load();
  const adminKey = await ensureAdminKey(keys, config.dataDir, config.adminKey);

  const pace = new HistoryPace(state.journal, () => metrics.paced.inc());
  const shipper = new Shipper(state, history, quarantine, pace, metrics, log);
  closers.push(() => shipper.close());
  const ledger = new CommandLedger(state, events, clock, mark);
  closers.push(() => ledger.close());
  const latest = new LatestValues(history, shipper);
  const gate = new DeliveryGate(ledger, latest, clock);
  closers.push(() => gate.close());
  const dispatcher = new Dispatcher(ledger, gate, registry, clock);
  closers.push(() => dispatcher.stop());
  const notifier = new Notifier(ledger, dispatcher, clock);
  closers.push(() => notifier.stop());
  const issuer = new CommandIssuer(ledger, presence, state, clock, newId);
  const changes = new QueueChanges(ledger, registry, mark.clockFrom(clock));
  const parkedPolls = new ParkedPolls(ledger, registry, presence, clock, config.bounds);
  const loop = loopDelay();
  const overload = new Overload([
    loop,
    fill('journal', PRESSURE_FROM, () => ({ used: state.journal.bytes, max: state.journal.bytesMax })),
    fill('parked_polls', PRESSURE_FROM, () => ({ used: parkedPolls.size, max: config.bounds.parked_polls })),
  ]);
  overload.start();
  closers.push(() => {
    overload.close();
    loop.close();
  });
  const advisor = new SleepAdvisor(ledger, registry, presence, overload, clock);
  const pull = new CommandPull(ledger, gate, dispatcher, presence, changes, advisor, (text) => digests.seal(text));
  const queries = new CommandQueries(ledger, state, history);
  const ingest = new Ingest(state, events, latest, clock, mark);
  const telemetryKeys = new TelemetryKeys(state);
  const sync = new DeviceSync(ledger, pull, ingest, new DeviceClocks(clock), telemetryKeys);
  const recovered = recover ? await recoverState(state, history, clock, config.dataDir) : undefined;
  await ledger.load();
  const openCommands = ledger.book.size;
  shipper.start();
  gate.start();

  const messages = new DeviceMessages({ state, registry, ingest, ledger, rejects, pace, metrics });
  const room = new JournalRoom(state.journal);
  const onReached: OnReached = (bound, client) => limits.reached(BOUND_OF[bound], { client });
  const sessions = new SessionStore({ state, clock, bounds: sessionBoundsOf(config.bounds), onReached });
  await sessions.load();
  const programs = new Programs(sessions, keys, metrics, onReached);
  const connections = new Connections(limits, metrics, rejects, refusedLogins);
  closers.push(() => connections.close());
  const mqtt = new MqttServer({
    registry,
    authenticator: new Authenticator(registry, deviceLogin, keys),
    programs,
    connections,
    presence,
    ledger,
    dispatcher,
    notifier,
    messages,
    received,
    room,
    metrics,
    log,
  });
  observe(metrics, { ledger, parkedPolls, overload, registry, presence, state, shipper, pace, quarantine, mqtt, room, clock });

  const app = await createApp({
    registry,
    deviceLogin,
    keys,
    access,
    fleetKeys,
    identityProvider,
    audit,
    backups,
    refusedLogins,
    limits,
    presence,
    ledger,
    dispatcher,
    notifier,
    issuer,
    pull,
    sync,
    parkedPolls,
    queries,
    ingest,
    telemetryKeys,
    pace,
    latest,
    rejects,
    quarantine,
    events,
    metrics,
    history,
    shipper,
    clock,
    log,
    readiness: () => readiness(state, history, shipper),
    version: VERSION,
  });
  limits.gate.guard(app.server);
  const unread = new UnreadAnswers(limits);
  closers.push(() => unread.close());
  unread.followServer(app.server);
  const secureHttp = new SecureHttp(app, limits, unread);
  closers.push(() => Promise.all([app.close(), secureHttp.close(CLOSE_MS_MAX)]));
  const webSocket = new MqttWebSocket(
    [app.server, secureHttp.http1],
    (stream, { socket, headers }) =>
      mqtt.accept(stream, limits.proxies.clientOf(socket.remoteAddress, headers['x-forwarded-for'])),
    config.bounds,
  );
  closers.push(() => webSocket.close());
  closers.push(() => mqtt.close());
  // First of all, so that connections which end because the server stops say nothing about their devices.
  closers.push(() => presence.close());
  closers.push(() => tls.stopListening());

  await mqtt.open();
  const ports = {
    mqttPort: await openPort('DOWNLINK_MQTT_PORT', config.mqttPort, config.host, (port) => mqtt.listen(config.host, port)),
    httpPort: await openPort('DOWNLINK_HTTP_PORT', config.httpPort, config.host, async (port) => {
      await app.listen({ host: config.host, port, backlog: CONNECT_BACKLOG });
      return (app.server.address() as AddressInfo).port;
    }),
    ...(await listenTls(config, tls, mqtt, secureHttp, (server) => limits.gate.guard(server))),
  };

  const sweep = setInterval(() => {
    Promise.all([sweepEnded(state, clock.now()), issuer.sweep(), audit.sweep(), programs.sweep()]).catch((error: Error) =>
      log.error(`sweep: ${error.message}`),
    );
  }, SWEEP_EVERY_MS).unref();
  closers.push(() => clearInterval(sweep));
  return { ...ports, adminKey: adminKey.key, isFirstStart: adminKey.isNew, openCommands, recovered };
}

async function listenTls(
  { tls: config, host }: Config,
  tls: TlsPorts,
  mqtt: MqttServer,
  http: SecureHttp,
  guard: (server: TlsServer) => void,
): Promise<{ mqttsPort: number | undefined; httpsPort: number | undefined }> {
  const [mqtts, https] = config.enabled ? [config.mqttsPort, config.httpsPort] : (['off', 'off'] as const);
  return {
    mqttsPort: await openPort('DOWNLINK_MQTTS_PORT', mqtts, host, (port) =>
      tls.listen({ name: 'mqtts', protocols: ['mqtt'], accept: (socket) => mqtt.accept(socket), guard }, host, port),
    ),
    httpsPort: await openPort('DOWNLINK_HTTPS_PORT', https, host, (port) =>
      tls.listen({ name: 'https', protocols: SECURE_PROTOCOLS, accept: (socket) => http.accept(socket), guard }, host, port),
    ),
  };
}

/** Throws StartError. */
async function openPort<P extends number | undefined>(
  variable: string,
  port: Port,
  host: string,
  listen: (port: number) => Promise<P>,
): Promise<P | undefined> {
  if (port === 'off') return undefined;
  return listen(port).catch((error: unknown) => {
    throw portErrorOf(error, variable, host, port);
  });
}

async function openHistory({ influx, dataDir }: Config, onDamage: (line: string) => void): Promise<History> {
  if (influx.enabled) {
    const { url, database, username, password } = influx;
    return InfluxHistory.open({
      url,
      database,
      ...(username !== undefined && { username }),
      ...(password !== undefined && { password }),
    });
  }
  return LevelHistory.open(historyFolder(dataDir), onDamage).catch((error: unknown) => {
    throw startErrorOf(error, historyFolder(dataDir));
  });
}

function portErrorOf(error: unknown, variable: string, host: string, port: number): StartError {
  const { code, message } = error as NodeJS.ErrnoException;
  if (code === 'ENOTFOUND' || code === 'EADDRNOTAVAIL' || code === 'EAI_AGAIN') {
    return new StartError(`${host} is no address of this machine (${message}); set DOWNLINK_HOST to one that is`);
  }
  const why = code === 'EADDRINUSE' ? 'is in use by another process' : `cannot be listened on (${message})`;
  return new StartError(`port ${port} on ${host} ${why}; stop it, or set ${variable} to another port (0 picks a free one)`);
}

/** Last opened, first closed. One that fails does not keep the others open. */
async function closeAll(closers: (() => Promise<unknown> | void)[], log: Logger): Promise<void> {
  for (const closer of closers.toReversed()) {
    try {
      await closer();
    } catch (error) {
      log.error(`while stopping: ${(error as Error).message}`);
    }
  }
}
