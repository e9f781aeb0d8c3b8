import { setMaxListeners } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { delay } from '../../simulators/client/backoff.ts';
import { seededRandom, type Random } from '../../simulators/models/random.ts';
import { Operator } from './operator.ts';
import type { Options } from './options.ts';
import { PushDevice } from './push-device.ts';
import { Records } from './records.ts';
import { SleepyDevice } from './sleepy-device.ts';
import { verifyCommands, type CommandTally } from './verify-commands.ts';
import { verifyReadings, type ReadingTally } from './verify-readings.ts';
import { ADMIN_KEY, Victim } from './victim.ts';

/**
 * The torture: clients at work, the server killed and started again on the same folder, round after round. When all clients have got their last
 * acknowledgement it is killed once more, and what it finds after that start is compared with the clients' records.
 */
export type Round = {
  readonly nth: number;
  readonly moment: Moment;
  readonly livedMs: number;
  readonly startMs: number;
  readonly acknowledgements: number;
  readonly journalBytes: number | undefined;
};

export type Outcome = {
  readonly faults: readonly string[];
  readonly readings: readonly ReadingTally[];
  readonly commands: CommandTally;
  readonly kills: ReadonlyMap<Moment, number>;
  readonly reconnects: number;
  /** From the last kill's recovery to the last acknowledgement and the last command's end. */
  readonly drainMs: number;
  /** Kept for a look at it, where there are faults. */
  readonly dataDir?: string;
};

/** When it is killed: at any time; in the very turn of an acknowledgement; while it starts; while it ships a burst; in the turn
 * of a command's arrival, before its confirmation. */
export const MOMENTS = ['any time', 'acknowledging', 'handing over', 'starting', 'shipping'] as const;
export type Moment = (typeof MOMENTS)[number];

const OPERATORS = 4;
const COMMANDS_PER_READING = 0.15;
const CUTS_SHARE = 0.002;
const LEASE_SECONDS = 2;
const DRAIN_MS_MAX = 120_000;
const START_KILL_MS_MAX = 500;
const ACKNOWLEDGEMENTS_MAX = 200;
const HAND_OVERS_MAX = 10;
const BURST_MESSAGES = 20;
const BURST_READINGS = 1_000;

export async function torture(options: Options, onRound: (round: Round) => void): Promise<Outcome> {
  const dataDir = await mkdtemp(join(tmpdir(), 'downlink-torture-'));
  const database = `torture_${process.pid}`;
  const { influxUrl } = options;
  const victim = new Victim(
    dataDir,
    influxUrl === undefined ? {} : { DOWNLINK_INFLUX_URL: influxUrl, DOWNLINK_INFLUX_DATABASE: database },
  );
  let isKept = true;
  try {
    const outcome = await run(options, victim, onRound);
    isKept = outcome.faults.length > 0;
    return { ...outcome, ...(isKept && { dataDir }) };
  } catch (error) {
    throw new Error(`${(error as Error).message} (the data folder is kept: ${dataDir})`, { cause: error });
  } finally {
    await victim.kill();
    if (!isKept) await rm(dataDir, { recursive: true, force: true });
    if (influxUrl !== undefined) {
      const body = new URLSearchParams({ q: `DROP DATABASE "${database}"` });
      await fetch(`${influxUrl}/query`, { method: 'POST', body }).catch(() => {});
    }
  }
}

async function run(options: Options, victim: Victim, onRound: (round: Round) => void): Promise<Outcome> {
  const random = seededRandom(options.seed);
  const records = new Records();
  victim.spawn();
  await victim.ready();

  const parts = (name: string) => ({ victim, records, random: random.fork(name) });
  const judge = new Operator('judge', [], parts('judge'));
  const burst = await register(judge, 'burst');
  const pushDevices: PushDevice[] = [];
  for (let i = 0; i < options.push; i += 1) {
    const id = `push-${i + 1}`;
    pushDevices.push(new PushDevice(id, await register(judge, id), i % 2 === 0 ? 1 : 2, parts(id)));
  }
  const sleepyDevices: SleepyDevice[] = [];
  for (let i = 0; i < options.sleepy; i += 1) {
    const id = `sleepy-${i + 1}`;
    sleepyDevices.push(new SleepyDevice(id, await register(judge, id), parts(id)));
  }
  const devices = [...pushDevices, ...sleepyDevices];
  const ids = devices.map(({ id }) => id);
  const operators = Array.from({ length: OPERATORS }, (_, i) => new Operator(`op-${i + 1}`, ids, parts(`op-${i + 1}`)));

  const enough = new AbortController();
  const gone = new AbortController();
  setMaxListeners(0, enough.signal, gone.signal);
  for (const device of devices) device.produce((1_000 * devices.length) / options.rate, enough.signal, CUTS_SHARE);
  for (const device of sleepyDevices) device.pull(gone.signal);
  for (const operator of operators) operator.produce((1_000 * OPERATORS) / (options.rate * COMMANDS_PER_READING), enough.signal);

  const kills = new Map<Moment, number>();
  const moments = random.fork('moments');
  for (let nth = 1; nth <= options.rounds; nth += 1) {
    const moment = moments.pick(MOMENTS);
    kills.set(moment, (kills.get(moment) ?? 0) + 1);
    const before = records.acknowledgements;
    const livedFrom = performance.now();
    const journalBytes = await untilMoment(moment, { options, random: moments, victim, records, burst });
    await victim.kill();
    const livedMs = performance.now() - livedFrom;
    const startedAt = performance.now();
    victim.spawn();
    if (moment === 'starting') {
      await delay(moments.between(0, START_KILL_MS_MAX));
      await victim.kill();
      victim.spawn();
    }
    await victim.ready();
    const startMs = performance.now() - startedAt;
    onRound({ nth, moment, livedMs, startMs, acknowledgements: records.acknowledgements - before, journalBytes });
  }

  enough.abort();
  await Promise.all([...devices, ...operators].map((client) => client.produced()));
  const faults: string[] = [];
  const drainedFrom = performance.now();
  if (!(await drained(judge, ids, devices)))
    faults.push(`commands were still open, or clients unanswered, ${DRAIN_MS_MAX / 1_000} s after the last kill`);
  const drainMs = performance.now() - drainedFrom;
  gone.abort();
  await Promise.all(sleepyDevices.map((device) => device.closed()));
  for (const device of pushDevices) device.close();
  await victim.kill();
  victim.spawn();
  await victim.ready();
  await shipped(victim);
  const readings = await verifyReadings(records, judge, faults);
  const commands = await verifyCommands(records, judge, faults);
  const reconnects = pushDevices.reduce((sum, { connections }) => sum + connections, 0);
  return { faults, readings, commands, kills, reconnects, drainMs };
}

async function register(judge: Operator, id: string): Promise<string> {
  const answer = await judge.ask('POST', '/v1/devices', { id, limits: { leaseSeconds: LEASE_SECONDS } });
  const { token } = (answer.body ?? {}) as { token?: string };
  if (token === undefined) throw new Error(`${id} was not registered: ${answer.status} ${JSON.stringify(answer.body)}`);
  return token;
}

type Scene = { options: Options; random: Random; victim: Victim; records: Records; burst: string };

/** Answers the journal's size at the time, where that is what was waited for. */
async function untilMoment(moment: Moment, { options, random, victim, records, burst }: Scene): Promise<number | undefined> {
  if (moment === 'acknowledging') {
    let left = random.integer(1, ACKNOWLEDGEMENTS_MAX);
    await new Promise<void>((resolve) =>
      records.onAcknowledged(() => {
        left -= 1;
        if (left > 0) return;
        records.onAcknowledged(() => {});
        // In this turn, before anything else can be taken.
        void victim.kill().then(resolve);
      }),
    );
    return undefined;
  }
  if (moment === 'handing over' && options.push + options.sleepy > 0) {
    let left = random.integer(1, HAND_OVERS_MAX);
    await new Promise<void>((resolve) =>
      records.onHandedOver(() => {
        left -= 1;
        if (left > 0) return;
        records.onHandedOver(() => {});
        void victim.kill().then(resolve);
      }),
    );
    return undefined;
  }
  await delay(random.between(0, options.roundMs));
  if (moment !== 'shipping') return undefined;
  const body = JSON.stringify(Array.from({ length: BURST_READINGS }, (_, i) => ({ filler: i })));
  const headers = { authorization: `Bearer ${burst}`, 'content-type': 'application/json' };
  const sent = Array.from({ length: BURST_MESSAGES }, () =>
    fetch(`${victim.url}/v1/device/telemetry`, { method: 'POST', headers, body, signal: AbortSignal.timeout(5_000) }).then(
      (answer) => answer.text(),
    ),
  );
  await Promise.allSettled(sent);
  return journalBytes(victim.url);
}

/** All clients have their acknowledgements and every command has ended. */
async function drained(
  judge: Operator,
  ids: readonly string[],
  devices: readonly { readonly isDrained: boolean }[],
): Promise<boolean> {
  const until = performance.now() + DRAIN_MS_MAX;
  while (performance.now() < until) {
    const open = await openCommands(judge, ids);
    if (open === 0 && devices.every(({ isDrained }) => isDrained)) return true;
    await delay(100);
  }
  return false;
}

async function openCommands(judge: Operator, ids: readonly string[]): Promise<number> {
  const counts = await Promise.all(
    ids.map(async (id) => ((await judge.ask('GET', `/v1/devices/${id}`)).body as { openCommands: number }).openCommands),
  );
  return counts.reduce((sum, count) => sum + count, 0);
}

/** The journal is in History, so that a query sees all of it. */
async function shipped(victim: Victim): Promise<void> {
  const until = performance.now() + DRAIN_MS_MAX;
  while ((await journalBytes(victim.url)) !== 0) {
    if (performance.now() > until) throw new Error('the journal was not shipped in time');
    await delay(50);
  }
}

async function journalBytes(url: string): Promise<number | undefined> {
  const headers = { authorization: `Bearer ${ADMIN_KEY}` };
  const answer = await fetch(`${url}/metrics`, { headers, signal: AbortSignal.timeout(5_000) }).catch(() => undefined);
  const bytes = /^downlink_journal_bytes (\S+)$/m.exec((await answer?.text()) ?? '')?.[1];
  return bytes === undefined ? undefined : Number(bytes);
}
