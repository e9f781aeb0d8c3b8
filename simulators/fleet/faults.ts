import { connect as mqttConnect, type IClientOptions, type MqttClient } from 'mqtt';
import type { Random } from '../models/random.ts';

/** What goes wrong in a simulated world, drawn from a seed: lost connections, lost answers, doubled sends, devices that fail. */
export const FAULTS = {
  cutBeforePuback: 'MQTT cut before PUBACK',
  cutAfterPuback: 'MQTT cut after PUBACK',
  cutAfterPublish: 'MQTT cut after a publish',
  mqttAway: 'MQTT away',
  sentTwiceMqtt: 'MQTT publish sent twice',
  requestLost: 'HTTP request lost',
  answerLost: 'HTTP answer lost',
  streamCut: 'event stream cut',
  sentTwiceHttp: 'HTTP request sent twice',
  lateReport: 'late report',
  deviceFails: 'device fails',
  deviceHangs: 'device never reports',
} as const;
export type Fault = keyof typeof FAULTS;

/** How many of each were injected, over the whole fleet. */
export type FaultCounts = Map<Fault, number>;

/** Rarer than the rest: such a command stays open until its report times out. */
const SHARE_OF: Partial<Record<Fault, number>> = { deviceHangs: 0.1 };

/** Draws whether a fault strikes, and counts it. */
export class Faults {
  readonly #random: Random;
  readonly #probability: number;
  readonly #counts: FaultCounts;

  constructor(random: Random, probability: number, counts: FaultCounts) {
    this.#random = random;
    this.#probability = probability;
    this.#counts = counts;
  }

  strike(fault: Fault): boolean {
    if (!this.#random.chance(this.#probability * (SHARE_OF[fault] ?? 1))) return false;
    this.#counts.set(fault, (this.#counts.get(fault) ?? 0) + 1);
    return true;
  }

  between(min: number, max: number): number {
    return this.#random.between(min, max);
  }
}

/** mqtt's `connect`, over a network that cuts and doubles; with `away`, also one that takes no connections for so long. */
export function faultyConnect(faults: Faults, away?: { msMin: number; msMax: number }): Connect {
  let awayUntilMs = 0;
  return (url, options) => {
    const client = mqttConnect(url, options);
    const now = performance.now();
    if (away !== undefined && now >= awayUntilMs && faults.strike('mqttAway'))
      awayUntilMs = now + faults.between(away.msMin, away.msMax);
    if (now < awayUntilMs) {
      setImmediate(() => client.stream.destroy());
      return client;
    }
    // `packetsend` comes before the packet is written: cutting at once loses it, cutting a turn later does not.
    client.on('packetsend', ({ cmd }) => {
      if (cmd === 'puback') {
        if (faults.strike('cutBeforePuback')) client.stream.destroy();
        else if (faults.strike('cutAfterPuback')) setImmediate(() => client.stream.destroy());
      } else if (cmd === 'publish' && faults.strike('cutAfterPublish')) {
        setImmediate(() => client.stream.destroy());
      }
    });
    const publish = client.publish.bind(client) as Publish;
    client.publish = ((topic, message, how, done) => {
      if (faults.strike('sentTwiceMqtt')) publish(topic, message, how, () => {});
      return publish(topic, message, how, done);
    }) as Publish as MqttClient['publish'];
    return client;
  };
}

type Connect = (url: string, options: IClientOptions) => MqttClient;

type Publish = (topic: string, message: string, how: { qos: 1 }, done: (error?: Error) => void) => MqttClient;

/** `fetch` over a network that loses requests and answers (of requests that arrived, or that may have), doubles requests and cuts event streams. */
export function faultyFetch(faults: Faults): typeof fetch {
  return async (input, init = {}) => {
    if (faults.strike('requestLost')) throw new TypeError('simulated: the request was lost');
    if (new Headers(init.headers).get('accept') === 'text/event-stream') return faultyStream(faults, input, init);
    if (faults.strike('answerLost')) {
      await (faults.between(0, 1) < 0.5 ? answered(input, init) : abandoned(input, init, faults.between(0, 3)));
      throw new TypeError('simulated: the answer was lost');
    }
    if (init.method === 'POST' && faults.strike('sentTwiceHttp')) await answered(input, init);
    return fetch(input, init);
  };
}

/** A stream that may be cut at any time, as connections are. */
async function faultyStream(faults: Faults, input: FetchArguments[0], init: RequestInit): Promise<Response> {
  const gone = new AbortController();
  const timer = setInterval(() => {
    if (faults.strike('streamCut')) gone.abort(new TypeError('simulated: the stream was cut'));
  }, STREAM_DRAW_MS);
  timer.unref();
  for (const signal of [gone.signal, init.signal]) signal?.addEventListener('abort', () => clearInterval(timer), { once: true });
  const signal = init.signal ? AbortSignal.any([init.signal, gone.signal]) : gone.signal;
  return fetch(input, { ...init, signal }).catch((error: unknown) => {
    // There is no stream to be cut.
    clearInterval(timer);
    throw error;
  });
}

const STREAM_DRAW_MS = 5_000;

type FetchArguments = Parameters<typeof fetch>;

/** The server did it and said so. */
async function answered(input: FetchArguments[0], init: RequestInit): Promise<void> {
  const response = await fetch(input, init);
  await response.arrayBuffer();
}

/** The device went away; the server may be half way through it. */
async function abandoned(input: FetchArguments[0], init: RequestInit, afterMs: number): Promise<void> {
  const gone = new AbortController();
  const timer = setTimeout(() => gone.abort(), afterMs);
  const signal = init.signal ? AbortSignal.any([init.signal, gone.signal]) : gone.signal;
  await answered(input, { ...init, signal }).catch(() => {});
  clearTimeout(timer);
}
