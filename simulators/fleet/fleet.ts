import { connect } from 'node:net';
import { performance } from 'node:perf_hooks';
import type { Command } from '../../devices/command.ts';
import { delay } from '../client/backoff.ts';
import { followStream } from '../event-stream.ts';
import { seededRandom, type Random } from '../models/random.ts';
import { openOperatorApi, type OperatorApi } from '../operator-api.ts';
import type { FleetOptions, ServerOptions } from '../options.ts';
import type { Screen } from '../screen.ts';
import { UserError } from '../user-error.ts';
import { atOnce } from './at-once.ts';
import { Faults, type FaultCounts } from './faults.ts';
import { kindOf, newModel } from './kinds.ts';
import { Ledger, type Facts } from './ledger.ts';
import { PACE, type Pace, RATE_A_DEVICE, SETTLE_MS_MAX, STARTS_AT_ONCE } from './limits.ts';
import { LiveView } from './live-view.ts';
import { newMeter, type Meter } from './meter.ts';
import { OperatorLoad, type Target } from './operator-load.ts';
import { readBack, countReadings } from './read-back.ts';
import { isSettled, reckon, replacedCommands } from './reckoning.ts';
import { registerDevice } from './register.ts';
import { simulatedDevice } from './simulated-device.ts';
import { reckoningLines, summaryLines } from './summary.ts';
import { drawWakeCron, WakeClock } from './wake-clock.ts';
import { isOnMqtt, isSleepy, WAYS, type Way } from './ways.ts';

/**
 * One run of the simulated fleet: registers the devices, issues commands for a while, waits until all have ended, and reckons.
 * `enough` ends the issuing early, `now` the waiting as well. Resolves with whether the reckoning came out clean.
 */
export async function runFleet(
  options: FleetOptions,
  screen: Screen,
  { enough, now, pace = PACE }: { enough: AbortSignal; now: AbortSignal; pace?: Pace },
): Promise<boolean> {
  const run = await prepare(options, screen, pace);
  const { api, ledger, meter, targets, wakes } = run;
  const followed = new AbortController();
  const stream = follow(run, followed.signal);
  const load = new OperatorLoad({
    api,
    ledger,
    meter,
    random: run.random.fork('operator'),
    devices: targets,
    rate: options.rate ?? targets.length * RATE_A_DEVICE,
    pace,
    onDelivered: run.onDelivered,
  });
  const view = new LiveView(screen, {
    meter,
    faults: run.faultCounts,
    heading: `Downlink fleet   seed ${options.seed}`,
    openCommands: () => countOpen(ledger),
  });
  const beats = pushBeats(targets, run.random.fork('beats'), pace.pushBeatMs);
  const from = Date.now();
  wakes.start();
  const startedMs = performance.now();
  const elapsed = () => (performance.now() - startedMs) / 1_000;
  load.start();
  while (elapsed() < options.seconds && !enough.aborted) {
    await delay(Math.min(1_000, (options.seconds - elapsed()) * 1_000), enough);
    view.tick('issuing commands', elapsed());
  }
  const issuingSeconds = elapsed();
  await load.stop();
  await settle(run, view, elapsed, now);
  beats.stop();
  wakes.stop();
  await Promise.all(targets.map(({ device }) => device.stop()));
  screen.keep();
  const found = await readBack(api, ledger, screen);
  const readings = await countReadings(api, targets, from, Date.now() + 1, now);
  followed.abort();
  await stream;
  const reckoning = reckon(ledger.issued(), found);
  const lines = reckoningLines(reckoning, readings, meter.unanswered, options.seed);
  for (const line of ['', ...summaryLines(meter, run.faultCounts, issuingSeconds), '', ...lines]) screen.say(line);
  return reckoning.clean && readings.mismatches.length === 0 && meter.unanswered === 0;
}

type Run = {
  readonly api: OperatorApi;
  readonly random: Random;
  readonly ledger: Ledger;
  readonly meter: Meter;
  readonly faultCounts: FaultCounts;
  readonly targets: readonly [Target, ...Target[]];
  readonly wakes: WakeClock;
  readonly onDelivered: (facts: Facts) => void;
};

async function prepare(options: FleetOptions, screen: Screen, pace: Pace): Promise<Run> {
  const { server, seed } = options;
  const api = await openOperatorApi(server);
  if (WAYS.some((way) => isOnMqtt(way) && (options[way] ?? 0) > 0)) await assertMqttAnswers(server);
  const random = seededRandom(seed);
  const ledger = new Ledger();
  const meter = newMeter();
  const faultCounts: FaultCounts = new Map();
  const wakes = new WakeClock();
  const wayOf = new Map<string, Way>();
  const onDelivered = (facts: Facts) => {
    const way = facts.issued && wayOf.get(facts.issued.deviceId);
    if (way === undefined || facts.issued === undefined || facts.arrivedAtMs === undefined) return;
    meter.ways[way].delivered += 1;
    meter.ways[way].delivery.add(Math.max(0, facts.arrivedAtMs - facts.issued.atMs));
  };
  const plans = WAYS.flatMap((way) => Array.from({ length: options[way] ?? 0 }, (_, i) => ({ way, i })));
  screen.say(`Registering ${plans.length} devices at ${server.url}; seed ${seed}.`);
  const targets: Target[] = [];
  await atOnce(STARTS_AT_ONCE, plans, async ({ way, i }) => {
    const kind = kindOf(way, i);
    const what = way === 'push' || way === 'sleepy' ? kind : `${way}-${kind}`;
    const id = `sim-${seed}-${what}-${String(Math.floor(i / 2) + 1).padStart(3, '0')}`;
    const own = random.fork(id);
    const cron = isSleepy(way) ? drawWakeCron(own.fork('wake'), pace.wakeSeconds) : undefined;
    const token = await registerDevice(api, {
      id,
      kind,
      leaseSeconds: pace.leaseSeconds,
      ...(cron !== undefined && { wake: { cron, timezone: 'UTC' } }),
    });
    wayOf.set(id, way);
    const device = simulatedDevice({
      id,
      way,
      kind,
      token,
      url: server.url,
      mqttUrl: server.mqttUrl,
      model: newModel(kind, own.fork('model'), Date.now()),
      faults: new Faults(own.fork('faults'), options.faults, faultCounts),
      pace,
      ledger,
      counts: meter.ways[way],
      onDelivered,
    });
    await device.start();
    if (cron !== undefined) wakes.add(cron, () => device.beat());
    meter.ways[way].devices += 1;
    targets.push({ device, way });
  });
  // In the order of the plan, not of the answers, so that a seed means the same devices.
  const [first, ...rest] = targets.toSorted((a, b) => (a.device.id < b.device.id ? -1 : 1));
  if (first === undefined) throw new UserError('A fleet has at least one device: --push N, --sleepy N, or another way.');
  return { api, random, ledger, meter, faultCounts, targets: [first, ...rest], wakes, onDelivered };
}

function follow({ api, ledger, meter }: Run, signal: AbortSignal): Promise<void> {
  return followStream({
    url: `${api.url}/v1/stream?type=command`,
    token: api.adminKey,
    signal,
    onBroken: () => (meter.streamBreaks += 1),
    onEvent: (name, data) => {
      if (name !== 'command') return;
      const { command } = data as { command: Pick<Command, 'id' | 'state'> };
      ledger.of(command.id).seen = command.state;
    },
  });
}

/** Waits until the server shows for every command an end that fits what its device knows; then nothing more is to come. */
async function settle({ api, ledger }: Run, view: LiveView, elapsed: () => number, now: AbortSignal): Promise<void> {
  const until = performance.now() + SETTLE_MS_MAX;
  for (let round = 1; !now.aborted && performance.now() < until; round += 1) {
    const replaced = replacedCommands(ledger.issued());
    const open = [...ledger.issued()].filter((facts) => !isSettled(facts, replaced.has(facts.id)));
    if (open.length === 0) return;
    view.tick(`waiting for the end of ${open.length} ${open.length === 1 ? 'command' : 'commands'}`, elapsed());
    // The stream may have missed something, while it was broken.
    if (round % ASK_EVERY_ROUNDS === 0) {
      await atOnce(4, open, async (facts) => {
        facts.seen = (await api.command(facts.id)).state;
      }).catch(() => {});
    }
    await delay(1_000, now);
  }
}

const ASK_EVERY_ROUNDS = 10;

/** Devices that are always on measure at a steady beat, each from an instant of its own. */
function pushBeats(targets: readonly Target[], random: Random, beatMs: number): { stop: () => void } {
  const timers = new Set<NodeJS.Timeout>();
  for (const { device, way } of targets) {
    if (isSleepy(way)) continue;
    const first = setTimeout(
      () => {
        timers.delete(first);
        device.beat();
        timers.add(setInterval(() => device.beat(), beatMs));
      },
      random.between(0, beatMs),
    );
    timers.add(first);
  }
  return { stop: () => timers.forEach((timer) => clearTimeout(timer)) };
}

function countOpen(ledger: Ledger): number {
  let open = 0;
  for (const { seen } of ledger.issued()) if (seen === undefined || OPEN.has(seen)) open += 1;
  return open;
}

const OPEN: ReadonlySet<string> = new Set(['queued', 'sent', 'delivered', 'running']);

/** Throws UserError when nothing listens where MQTT should be. */
async function assertMqttAnswers({ mqttUrl }: ServerOptions): Promise<void> {
  const { hostname, port, protocol } = new URL(mqttUrl);
  const defaults: Record<string, number> = { 'mqtt:': 1883, 'mqtts:': 8883, 'ws:': 80, 'wss:': 443 };
  const error = await new Promise<Error | undefined>((resolve) => {
    const socket = connect({
      host: hostname.replace(/^\[|\]$/g, ''),
      port: port === '' ? (defaults[protocol] ?? 1883) : Number(port),
    });
    socket.setTimeout(5_000, () => socket.destroy(new Error('no answer')));
    socket.once('connect', () => {
      socket.destroy();
      resolve(undefined);
    });
    socket.once('error', resolve);
  });
  if (error !== undefined)
    throw new UserError(`MQTT does not answer at ${mqttUrl} (${error.message}). Say where it is with --mqtt.`, { cause: error });
}
