import { randomInt } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Packet } from 'mqtt-packet';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { delay } from '../simulators/client/backoff.ts';
import { seededRandom, type Random } from '../simulators/models/random.ts';
import { SessionProgram } from './crash/session-program.ts';
import type { ProgramKey } from './raw-client.ts';
import { ADMIN_KEY, Victim } from './torture/victim.ts';

/**
 * Programs that speak with QoS 2 through a server that is killed again and again: each message comes once and in its order to each subscriber.
 * CRASH_KILLS sets how often it is killed, CRASH_SEED repeats a run's choices.
 */
const KILLS = Number(process.env['CRASH_KILLS'] ?? 6);
const SEED = Number(process.env['CRASH_SEED'] ?? randomInt(2 ** 31));
const RUN_MS_MAX = 120_000 + KILLS * 30_000;
const PUBLISHERS = 3;
const IN_FLIGHT = 8;
const PACKETS_MAX = 150;

/** When it is killed: at any time, in the turn in which a client is told of a step, or while it starts. */
const MOMENTS = ['any time', 'pubrec', 'pubcomp', 'pubrel', 'publish', 'starting'] as const;
type Moment = (typeof MOMENTS)[number];

let folder: string;
let victim: Victim;
let key: ProgramKey;
let programs: SessionProgram[];
let heard: (cmd: Packet['cmd']) => void;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'downlink-crash-programs-'));
  victim = new Victim(folder, { DOWNLINK_QUEUED_MESSAGES_PER_CLIENT_MAX: '65535' });
  victim.spawn();
  await victim.ready();
  const response = await fetch(`${victim.url}/v1/keys`, {
    method: 'POST',
    headers: { authorization: `Bearer ${ADMIN_KEY}`, 'content-type': 'application/json' },
    body: JSON.stringify({ name: 'program', role: 'viewer', mqtt: { allow: [{ filter: '#' }] } }),
  });
  const made = (await response.json()) as { key: { id: string }; secret: string };
  key = { id: made.key.id, key: made.secret };
  programs = [];
  heard = () => {};
});

afterEach(async () => {
  for (const program of programs) program.close();
  await victim.kill();
  await rm(folder, { recursive: true, force: true });
});

function program(clientId: string, filters: readonly string[] = []): SessionProgram {
  const one = new SessionProgram({ key, clientId, port: () => victim.mqttPort, filters, onPacket: (cmd) => heard(cmd) });
  programs.push(one);
  return one;
}

/** Messages one after the other, some under way at a time, until `enough`. Answers how many. */
async function produce(publisher: SessionProgram, topic: string, random: Random, enough: AbortSignal): Promise<number> {
  const underWay = new Set<Promise<void>>();
  let n = 0;
  while (!enough.aborted) {
    const published: Promise<void> = publisher.publish(topic, String(n)).then(() => void underWay.delete(published));
    underWay.add(published);
    n += 1;
    if (underWay.size >= IN_FLIGHT) await Promise.race(underWay);
    if (random.chance(0.1)) await delay(random.between(0, 20));
  }
  await Promise.all(underWay);
  return n;
}

async function killAt(moment: Moment, random: Random): Promise<void> {
  if (moment === 'any time' || moment === 'starting') {
    await delay(random.between(50, 800));
    await victim.kill();
  } else {
    let left = random.integer(1, PACKETS_MAX);
    await new Promise<void>((resolve) => {
      heard = (cmd) => {
        if (cmd === moment) left -= 1;
        if (left > 0) return;
        heard = () => {};
        void victim.kill().then(resolve);
      };
    });
  }
  victim.spawn();
  if (moment !== 'starting') return;
  await delay(random.between(0, 500));
  await victim.kill();
  victim.spawn();
}

test('with QoS 2 both ways each message comes once, whenever the server is killed', { timeout: RUN_MS_MAX }, async () => {
  process.stdout.write(`seed ${SEED}: CRASH_SEED=${SEED} repeats it\n`);
  const random = seededRandom(SEED);
  const subscribers = [program('all', ['plant/+/out', 'plant/#']), program('one', ['plant/0/out'])];
  await until(() => subscribers.every(({ isSubscribed }) => isSubscribed));
  const publishers = Array.from({ length: PUBLISHERS }, (_, i) => program(`publisher-${i}`));
  const enough = new AbortController();
  const produced = publishers.map((publisher, i) =>
    produce(publisher, `plant/${i}/out`, random.fork(`publisher ${i}`), enough.signal),
  );
  const cuts = (async () => {
    const choices = random.fork('cuts');
    while (!enough.signal.aborted) {
      await delay(choices.between(20, 150));
      programs[choices.integer(0, programs.length - 1)]?.cut(choices.chance(0.5));
    }
  })();

  const moments = random.fork('moments');
  const chosen: Moment[] = [];
  for (let nth = 0; nth < KILLS; nth += 1) {
    const moment = moments.pick(MOMENTS);
    chosen.push(moment);
    await killAt(moment, moments);
    await victim.ready();
  }
  enough.abort();
  await cuts;
  const counts = await Promise.all(produced);
  await until(() => programs.every(({ unfinished, unreleased }) => unfinished === 0 && unreleased === 0));
  // What is still to come, if anything is, comes before these.
  for (const [i, publisher] of publishers.entries()) await publisher.publish(`plant/${i}/out`, 'last');
  await until(() => subscribers.every((one, i) => lasts(one) === (i === 0 ? PUBLISHERS : 1)));

  process.stdout.write(`${counts.join(' + ')} messages, killed at ${chosen.join(', ')}; ${connectionsOf()} connections\n`);
  expect(programs.flatMap(({ faults }) => faults)).toEqual([]);
  for (const [i, count] of counts.entries()) {
    const sent = [...Array.from({ length: count }, (_, n) => String(n)), 'last'];
    for (const subscriber of i === 0 ? subscribers : subscribers.slice(0, 1)) {
      const got = subscriber.messages.filter(({ topic }) => topic === `plant/${i}/out`).map(({ text }) => text);
      expect(differences(sent, got), `of publisher ${i}`).toEqual({ lost: [], twice: [], isInOrder: true });
    }
  }
  expect(subscribers[1]?.messages.every(({ topic }) => topic === 'plant/0/out')).toBe(true);
});

function lasts({ messages }: SessionProgram): number {
  return messages.filter(({ text }) => text === 'last').length;
}

function connectionsOf(): number {
  return programs.reduce((sum, { connections }) => sum + connections, 0);
}

function differences(sent: readonly string[], got: readonly string[]) {
  const known = new Set(got);
  return {
    lost: sent.filter((text) => !known.has(text)),
    twice: got.filter((text, i) => got.indexOf(text) !== i),
    isInOrder: sent.filter((text) => known.has(text)).join() === [...known].join(),
  };
}

async function until(holds: () => boolean): Promise<void> {
  while (!holds()) await delay(10);
}
