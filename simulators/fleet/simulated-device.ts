import { performance } from 'node:perf_hooks';
import { delay } from '../client/backoff.ts';
import type { ClientEvents, CommandContext, DeviceClient, ReceivedCommand } from '../client/device-client.ts';
import { RejectedCommand } from '../client/device-client.ts';
import { HybridClient } from '../client/hybrid-client.ts';
import { PullClient } from '../client/pull-client.ts';
import { PushClient } from '../client/push-client.ts';
import { SseClient } from '../client/sse-client.ts';
import { failed, type Model, type Params } from '../models/model.ts';
import { faultyConnect, faultyFetch, type Faults } from './faults.ts';
import type { Kind } from './kinds.ts';
import type { Pace } from './limits.ts';
import type { Facts, Ledger } from './ledger.ts';
import type { Counts } from './meter.ts';
import { isOnMqtt, type Way } from './ways.ts';

/** One simulated thing: its model behind the reference client, with its faults; whatever it does goes into the ledger. */
export type SimulatedDevice = {
  readonly id: string;
  readonly kind: Kind;
  /** Samples by their time, and whether the server acknowledged them. */
  readonly samples: Map<number, boolean>;
  start(): Promise<void>;
  /** Measures once; a sleepy device also wakes for it. */
  beat(): void;
  stop(): Promise<void>;
};

export type DeviceParts = {
  readonly id: string;
  readonly way: Way;
  readonly kind: Kind;
  readonly model: Model;
  readonly token: string;
  readonly url: string;
  readonly mqttUrl: string;
  readonly faults: Faults;
  readonly pace: Pace;
  readonly ledger: Ledger;
  readonly counts: Counts;
  /** Called when both the issue and the arrival of a command are known. */
  readonly onDelivered: (facts: Facts) => void;
};

export function simulatedDevice(parts: DeviceParts): SimulatedDevice {
  const { counts } = parts;
  const [client, wake] = clientOf(parts);
  return simulated(parts, client, () => {
    if (wake === undefined) return;
    counts.wakes += 1;
    // Rejects when the device was stopped in between.
    wake().catch(() => {});
  });
}

/** The client of its way, and how to wake it if it sleeps. */
function clientOf(parts: DeviceParts): [client: DeviceClient, wake?: () => Promise<unknown>] {
  const { id, way, token, url, mqttUrl, faults, pace } = parts;
  const common = { token, events: events(parts) };
  const overHttp = { ...common, url, fetch: faultyFetch(faults) };
  switch (way) {
    case 'push':
      return [new PushClient({ ...common, url: mqttUrl, deviceId: id, connect: faultyConnect(faults) })];
    case 'sleepy':
    case 'sync': {
      const client = new PullClient({ ...overHttp, ask: way === 'sync' ? 'sync' : 'plain', schedule: 'manual' });
      return [client, () => client.wake()];
    }
    case 'long-poll':
      return [new PullClient({ ...overHttp, ask: 'long-poll', waitSeconds: pace.waitSeconds })];
    case 'sse':
      return [new SseClient(overHttp)];
    case 'hybrid': {
      const connect = faultyConnect(faults, { msMin: pace.awayMsMin, msMax: pace.awayMsMax });
      const pull = { waitSeconds: pace.waitSeconds };
      return [new HybridClient({ ...overHttp, mqttUrl, deviceId: id, connect, pull, keepaliveSeconds: pace.keepaliveSeconds })];
    }
  }
}

function simulated(parts: DeviceParts, client: DeviceClient, wake: () => void): SimulatedDevice {
  const { id, kind, model, counts } = parts;
  const samples = new Map<number, boolean>();
  for (const name of Object.keys(model.commands)) client.onCommand(name, (command, context) => carryOut(parts, command, context));
  return {
    id,
    kind,
    samples,
    start: () => client.start(),
    stop: () => client.stop(),
    beat: () => {
      const ts = Date.now();
      samples.set(ts, false);
      void client.telemetry(model.read(ts), ts).then((delivery) => {
        if (delivery !== 'stored') {
          counts.readingsNotStored += 1;
          return;
        }
        samples.set(ts, true);
        counts.readings += 1;
      });
      wake();
    },
  };
}

async function carryOut(
  { model, faults, ledger, pace }: DeviceParts,
  command: ReceivedCommand,
  context: CommandContext,
): Promise<unknown> {
  const facts = ledger.of(command.id);
  facts.executions += 1;
  const act = model.commands[command.name];
  if (act === undefined) throw new RejectedCommand('the model does not know it');
  const outcome = faults.strike('deviceFails')
    ? failed('simulated: the hardware gave up')
    : act((command.params ?? {}) as Params, Date.now());
  if (faults.strike('deviceHangs')) {
    facts.silent = true;
    await new Promise((resolve) => context.signal.addEventListener('abort', resolve));
  }
  const lateMs = faults.strike('lateReport') ? faults.between(pace.lateMsMin, pace.lateMsMax) : 0;
  const afterMs = outcome.state === 'rejected' ? 0 : outcome.afterMs;
  if (afterMs > 1_000) context.progress(0);
  await delay(afterMs + lateMs, context.signal);
  if (context.signal.aborted) throw new Error('stopped');
  facts.word = {
    state: outcome.state,
    ...(outcome.state === 'succeeded' && outcome.result !== undefined && { result: outcome.result }),
  };
  if (outcome.state === 'succeeded') return outcome.result;
  throw outcome.state === 'rejected' ? new RejectedCommand(outcome.message) : new Error(outcome.message);
}

function events({ way, model, ledger, counts, onDelivered }: DeviceParts): ClientEvents {
  return {
    received(command) {
      const facts = ledger.of(command.id);
      facts.received += 1;
      // A name the model does not know is for the client to reject.
      if (!(command.name in model.commands)) facts.word ??= { state: 'rejected' };
      if (facts.arrivedAtMs !== undefined) return;
      facts.arrivedAtMs = performance.now();
      if (facts.issued !== undefined) onDelivered(facts);
    },
    reported(commandId, report, delivery, code) {
      const facts = ledger.of(commandId);
      if (delivery === 'refused') facts.refused = code ?? 'refused';
      // A PUBACK also answers a report that came too late to count; what is told on `errors` may be lost with the connection.
      if (delivery === 'stored' && !isOnMqtt(way)) facts.anyReportTaken = true;
      if (report.state === 'running') return;
      // Refused for good is an answer too.
      if (delivery === 'dropped') facts.silent = true;
      else facts.wordTaken = true;
    },
    disconnected() {
      counts.reconnects += 1;
    },
    switched() {
      counts.switches += 1;
    },
  };
}
