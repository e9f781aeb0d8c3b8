import { parentPort, workerData } from 'node:worker_threads';
import { generate, parser, type Packet } from 'mqtt-packet';
import { connect } from 'node:net';

/**
 * A device that does all that it should, in a thread of its own: pings, telemetry with QoS 1, commands that are issued to it. How long each took is
 * what it tells when asked. It keeps the one connection that it has; losing it is a fault.
 */
export type HealthyData = { mqttPort: number; url: string; id: string; token: string; operatorKey: string };
export type HealthyReport = { pings: number[]; readings: number[]; commands: number[]; faults: string[] };

const PAUSE_MS = 10;
const COMMAND_PAUSE_MS = 40;
const ANSWER_MS_MAX = 20_000;

const { mqttPort, url, id, token, operatorKey } = workerData as HealthyData;
const socket = connect({ port: mqttPort, host: '127.0.0.1', noDelay: true });
const incoming = parser();
const waiting = new Map<string, () => void>();
let report: HealthyReport = { pings: [], readings: [], commands: [], faults: [] };
let isEnding = false;

incoming.on('packet', (packet: Packet) => {
  if (packet.cmd === 'publish') takeCommand(packet);
  const key = packet.cmd === 'puback' ? `puback ${packet.messageId}` : packet.cmd;
  waiting.get(key)?.();
});
socket.on('data', (chunk: Buffer) => incoming.parse(chunk));
socket.on('error', (error) => fault(error.message));
socket.on('close', () => fault('its connection was closed'));

function fault(what: string): void {
  if (!isEnding) report.faults.push(what);
}

/** Milliseconds from now until what is waited for comes; `begin` asks for it. */
async function timed(key: string, begin: () => unknown): Promise<number> {
  const startedAt = performance.now();
  await new Promise<void>((resolve) => {
    const timer = setTimeout(() => {
      fault(`no ${key} in ${ANSWER_MS_MAX} ms`);
      resolve();
    }, ANSWER_MS_MAX);
    waiting.set(key, () => {
      clearTimeout(timer);
      resolve();
    });
    begin();
  });
  waiting.delete(key);
  return performance.now() - startedAt;
}

function takeCommand(packet: Packet & { cmd: 'publish' }): void {
  if (packet.messageId !== undefined) socket.write(generate({ cmd: 'puback', messageId: packet.messageId }));
  const command = JSON.parse(packet.payload.toString()) as { id: string };
  socket.write(
    generate({
      cmd: 'publish',
      topic: `devices/${id}/commands/${command.id}`,
      payload: '{"state":"succeeded"}',
      qos: 1,
      messageId: 65_535,
      dup: false,
      retain: false,
    }),
  );
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

async function ping(): Promise<void> {
  while (!isEnding) {
    const { pings } = report;
    pings.push(await timed('pingresp', () => socket.write(generate({ cmd: 'pingreq' }))));
    await pause(PAUSE_MS);
  }
}

async function measure(): Promise<void> {
  for (let n = 1; !isEnding; n = (n % 60_000) + 1) {
    const { readings } = report;
    const message = { topic: `devices/${id}/telemetry`, payload: JSON.stringify({ n }), qos: 1 as const, messageId: n };
    readings.push(
      await timed(`puback ${n}`, () => socket.write(generate({ cmd: 'publish', dup: false, retain: false, ...message }))),
    );
    await pause(PAUSE_MS);
  }
}

/** Operators' programs wait for the outcome: from the request to the answer that tells of it. */
async function command(): Promise<void> {
  while (!isEnding) {
    const { commands } = report;
    const startedAt = performance.now();
    try {
      const response = await fetch(`${url}/v1/devices/${id}/commands?wait=20`, {
        method: 'POST',
        headers: { authorization: `Bearer ${operatorKey}`, 'content-type': 'application/json' },
        body: '{"name":"blink"}',
      });
      const answer = await response.text();
      if (response.status !== 201 || !answer.includes('"succeeded"')) fault(`a command: ${response.status} ${answer}`);
      commands.push(performance.now() - startedAt);
    } catch (error) {
      fault(`a command: ${(error as Error).message}`);
    }
    await pause(COMMAND_PAUSE_MS);
  }
}

await timed('connack', () =>
  socket.write(
    generate({
      cmd: 'connect',
      protocolId: 'MQTT',
      protocolVersion: 4,
      clean: true,
      clientId: id,
      keepalive: 60,
      username: id,
      password: Buffer.from(token),
    }),
  ),
);
await timed('suback', () =>
  socket.write(generate({ cmd: 'subscribe', messageId: 1, subscriptions: [{ topic: `devices/${id}/commands`, qos: 1 }] })),
);
parentPort?.on('message', (asked: 'begin' | 'report' | 'end') => {
  if (asked === 'begin') report = { pings: [], readings: [], commands: [], faults: [] };
  if (asked === 'end') {
    isEnding = true;
    socket.destroy();
    parentPort?.close();
    return;
  }
  parentPort?.postMessage(report, []);
});
parentPort?.postMessage(report, []);
void ping();
void measure();
void command();
