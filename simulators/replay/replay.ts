import { join } from 'node:path';
import { delay } from '../client/backoff.ts';
import { jsonHttp } from '../client/json-http.ts';
import { openOperatorApi } from '../operator-api.ts';
import type { ReplayOptions } from '../options.ts';
import type { Screen } from '../screen.ts';
import { UserError } from '../user-error.ts';
import { clockTime, grouped } from '../table.ts';
import { readRows } from './csv-rows.ts';
import { examine, type Recording } from './examine.ts';
import { prepareDevice } from './replay-device.ts';
import { TelemetrySender } from './telemetry-sender.ts';

/** Between two messages at `--speed`, so that fast recordings do not travel one by one. */
const PACE_MS_MIN = 100;
const WAIT_MS_MAX = 3_600_000;
const SHOW_EVERY_MS = 250;

/**
 * Sends a recorded file with its own times. The whole file is checked before anything is sent. Resolves with whether all of it
 * was sent; `stop` ends it early.
 */
export async function replay(options: ReplayOptions, screen: Screen, stop: AbortSignal): Promise<boolean> {
  const { file, device, metric, server, speed } = options;
  screen.show([`Checking ${file}`]);
  const recording = await examine(() => readRows(file, options.type));
  if (speed !== undefined && recording.firstRowOutOfOrder !== undefined) {
    throw new UserError(
      `--speed needs rows in time order; row ${recording.firstRowOutOfOrder} is earlier than the one before it.`,
    );
  }
  const api = await openOperatorApi(server);
  const token = await prepareDevice(api, options, recording, (line) => screen.say(line));
  const startedMs = performance.now();
  let waiting = '';
  const sender = new TelemetrySender({
    http: jsonHttp({ url: server.url, token }),
    metric,
    oneByOne: recording.firstRowOutOfOrder !== undefined,
    signal: stop,
    onWait: (why) => (waiting = `   waiting: ${why}`),
  });
  const show = setInterval(() => {
    const percent = Math.floor((sender.sent * 100) / recording.rows);
    screen.show([`${device} ${metric}: ${grouped(sender.sent)} of ${grouped(recording.rows)} rows, ${percent} %${waiting}`]);
    waiting = '';
  }, SHOW_EVERY_MS);
  try {
    await send(options, recording, sender, stop);
  } finally {
    clearInterval(show);
  }
  const seconds = (performance.now() - startedMs) / 1_000;
  for (const line of report(options, recording, sender.sent, seconds)) screen.say(line);
  return sender.sent === recording.rows;
}

async function send(
  { file, type, speed }: ReplayOptions,
  { from }: Recording,
  sender: TelemetrySender,
  stop: AbortSignal,
): Promise<void> {
  const startedMs = performance.now();
  for await (const { ts, value } of readRows(file, type)) {
    if (speed !== undefined) {
      const dueMs = startedMs + (ts - from) / speed;
      if (dueMs > performance.now()) await sender.flush();
      while (dueMs > performance.now() && !stop.aborted) {
        await delay(Math.min(WAIT_MS_MAX, Math.max(PACE_MS_MIN, dueMs - performance.now())), stop);
      }
    }
    if (stop.aborted) break;
    await sender.add(ts, value);
  }
  await sender.drain();
}

function report({ device, metric, server }: ReplayOptions, recording: Recording, sent: number, seconds: number): string[] {
  const { rows, distinctTimes, statistics } = recording;
  const from = new Date(recording.from).toISOString();
  const to = new Date(recording.to).toISOString();
  const repeated = rows - distinctTimes;
  const past = new Date(recording.to + 1).toISOString();
  const key = server.adminKey === undefined ? `$(cat ${join(server.dataDir, 'admin.key')})` : '$DOWNLINK_ADMIN_KEY';
  const functions = statistics === undefined ? 'count,last' : 'count,mean,min,max';
  return [
    sent === rows
      ? `Sent ${grouped(rows)} rows in ${seconds < 60 ? `${seconds.toFixed(1)} s` : clockTime(seconds)}, as ${metric} of ${device}.`
      : `Sent ${grouped(sent)} of ${grouped(rows)} rows; run it again for all, those sent stay the same readings.`,
    `  distinct times  ${distinctTimes}${repeated > 0 ? ` (${repeated} rows repeat a time; the last of them counts)` : ''}`,
    `  from            ${from}`,
    `  to              ${to}`,
    ...(statistics === undefined
      ? []
      : [`  mean            ${statistics.mean}`, `  min             ${statistics.min}`, `  max             ${statistics.max}`]),
    'The same from the API:',
    `  curl -s -H "Authorization: Bearer ${key}" '${server.url}/v1/devices/${device}/telemetry?metric=${metric}&from=${from}&to=${past}&fn=${functions}'`,
  ];
}
