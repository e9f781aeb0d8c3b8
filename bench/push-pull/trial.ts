import { setTimeout as delay } from 'node:timers/promises';
import type { DeviceClient } from '../../simulators/client/device-client.ts';
import { OperatorApi } from '../../simulators/operator-api.ts';
import { startDownlinkOn, type Downlink } from '../downlink-target.ts';
import { makeScratchFolder } from '../scratch-folder.ts';
import { countingConnect, countingFetch, type Counts } from './counting.ts';
import { measuredOf, type Measured } from './measured.ts';
import { openMeteredLink, type Network } from './metered-link.ts';
import { RadioMeter, type Radio } from './radio-meter.ts';
import type { Way } from './ways.ts';
import { planOf, type Plan, type Workload } from './workload.ts';

/** One way of delivery, measured: a server of its own, devices that are reached by it alone, and the planned commands. */
type TrialDevice = {
  readonly client: DeviceClient;
  readonly counts: Counts;
  readonly radio: RadioMeter;
  bytes: number;
  close(): Promise<void>;
};

/** Beyond the longest that a command may take by plan: a lease, a poll. */
const DRAIN_SPARE_MS = 5_000;
const COMMAND_SECONDS_KEPT = 3_600;
const ISSUING_MAX = 64;

export async function runTrial(way: Way, workload: Workload, radio: Radio, network: Network): Promise<Measured> {
  const folder = await makeScratchFolder(`compare-${way.id}`);
  try {
    const server = await startDownlinkOn(folder.path, []);
    try {
      return await measure(way, workload, radio, network, server);
    } finally {
      await server.stop();
    }
  } finally {
    await folder.remove();
  }
}

async function measure(way: Way, workload: Workload, radio: Radio, network: Network, server: Downlink): Promise<Measured> {
  const plan = planOf(workload);
  const api = new OperatorApi({ url: `http://127.0.0.1:${server.httpPort}`, adminKey: server.operatorKey });
  const arrivals = new Arrivals();
  const everyMs = workload.everySeconds * 1_000;
  // Each device starts at its phase and has settled one period later.
  const fromMs = performance.now() + 2 * everyMs;
  const starting = plan.phases.map(async (phase, i) => {
    const meter = new RadioMeter(radio, fromMs);
    const device = await makeDevice(`${way.id}-${i}`, { way, workload, network, server, api, arrivals }, meter);
    await delay(phase * everyMs);
    await device.client.start();
    return device;
  });
  const devices = await Promise.all(starting);
  const measuring = devices.map((device, i) => measureAt(device, plan.phases[i] ?? 0, everyMs));
  try {
    await delay(Math.max(0, fromMs - performance.now()));
    for (const device of devices) {
      device.bytes = 0;
      device.counts.requests = 0;
      device.counts.emptyAnswers = 0;
    }
    const cpuBefore = await server.metric('process_cpu_seconds_total');
    const issued = await issueAll(plan, way, api, arrivals, fromMs);
    await delay(Math.max(0, fromMs + workload.seconds * 1_000 - performance.now()));
    const endsMs = performance.now();
    const serverCpuMs = ((await server.metric('process_cpu_seconds_total')) - cpuBefore) * 1_000;
    const sums = sumOf(devices, endsMs, way.listens);
    await arrivals.all(issued, everyMs + workload.waitSeconds * 1_000 + DRAIN_SPARE_MS);
    return measuredOf(
      way,
      { latenciesMs: arrivals.latenciesMs, ...sums, serverCpuMs, commands: issued },
      { devices: workload.devices, measuredMs: endsMs - fromMs },
    );
  } finally {
    for (const timer of measuring) timer();
    await Promise.all(devices.map(({ client }) => client.stop()));
    await Promise.all(devices.map((device) => device.close()));
  }
}

type TrialParts = {
  readonly way: Way;
  readonly workload: Workload;
  readonly network: Network;
  readonly server: Downlink;
  readonly api: OperatorApi;
  readonly arrivals: Arrivals;
};

async function makeDevice(id: string, parts: TrialParts, radio: RadioMeter): Promise<TrialDevice> {
  const { way, workload, network, server, api, arrivals } = parts;
  const created = await api.createDevice({ id, ...way.device(workload) });
  if (created === 'exists') throw new Error(`${id} is there already`);
  const counts: Counts = { requests: 0, emptyAnswers: 0 };
  const passed = (octets: number): void => {
    device.bytes += octets;
    radio.burst(performance.now());
  };
  const http = await openMeteredLink(server.httpPort, network, passed);
  const mqtt = await openMeteredLink(server.mqttPort, network, passed);
  const client = way.client({
    deviceId: id,
    token: created.token,
    url: `http://127.0.0.1:${http.port}`,
    mqttUrl: `mqtt://127.0.0.1:${mqtt.port}`,
    workload,
    fetch: countingFetch(counts),
    connect: countingConnect(counts),
    events: { received: ({ id: commandId }) => arrivals.arrived(commandId) },
  });
  client.onCommand('set', (command) => command.params);
  const close = async (): Promise<void> => void (await Promise.all([http.close(), mqtt.close()]));
  const device: TrialDevice = { client, counts, radio, bytes: 0, close };
  return device;
}

/** Measures once a period; returns the way to end it. */
function measureAt({ client }: TrialDevice, phase: number, everyMs: number): () => void {
  const timer = setInterval(() => void client.telemetry({ temperature: 20 + phase, battery: 0.93 }), everyMs);
  return () => clearInterval(timer);
}

/** Resolves with how many were issued, once the last is. */
async function issueAll(plan: Plan, way: Way, api: OperatorApi, arrivals: Arrivals, fromMs: number): Promise<number> {
  const underWay = new Set<Promise<void>>();
  for (const { atMs, device, value } of plan.commands) {
    await delay(Math.max(0, fromMs + atMs - performance.now()));
    while (underWay.size >= ISSUING_MAX) await Promise.race(underWay);
    const body = { name: 'set', params: { value }, expires: { inSeconds: COMMAND_SECONDS_KEPT } };
    const issuing = api.issue(`${way.id}-${device}`, body, `${way.id}-${device}-${atMs}`).then(({ id }) => arrivals.issued(id));
    underWay.add(issuing);
    void issuing.finally(() => underWay.delete(issuing)).catch(() => {});
  }
  await Promise.all(underWay);
  return plan.commands.length;
}

function sumOf(
  devices: readonly TrialDevice[],
  atMs: number,
  listens: boolean,
): { bytes: number; requests: number; emptyAnswers: number; radioOnMs: number } {
  const sums = { bytes: 0, requests: 0, emptyAnswers: 0, radioOnMs: 0 };
  for (const { bytes, counts, radio } of devices) {
    sums.bytes += bytes;
    sums.requests += counts.requests;
    sums.emptyAnswers += counts.emptyAnswers;
    sums.radioOnMs += radio.onMs(atMs, listens);
  }
  return sums;
}

/** When commands were issued and when they first arrived; an arrival may be known before the operator has the answer. */
class Arrivals {
  readonly #issuedMs = new Map<string, number>();
  readonly #arrivedMs = new Map<string, number>();
  readonly latenciesMs: number[] = [];

  issued(commandId: string): void {
    const now = performance.now();
    this.#issuedMs.set(commandId, now);
    const arrived = this.#arrivedMs.get(commandId);
    if (arrived !== undefined) this.latenciesMs.push(Math.max(0, arrived - now));
  }

  arrived(commandId: string): void {
    if (this.#arrivedMs.has(commandId)) return;
    const now = performance.now();
    this.#arrivedMs.set(commandId, now);
    const issued = this.#issuedMs.get(commandId);
    if (issued !== undefined) this.latenciesMs.push(now - issued);
  }

  /** Resolves when `count` have arrived, or after `withinMs`. */
  async all(count: number, withinMs: number): Promise<void> {
    const untilMs = performance.now() + withinMs;
    while (this.latenciesMs.length < count && performance.now() < untilMs) await delay(50);
  }
}
