import { describe, expect, test } from 'vitest';
import type { Report } from '../devices/report.ts';
import type { Sample } from '../devices/telemetry.ts';
import type { ClientOptions, Delivery } from '../simulators/client/device-client.ts';
import { DeviceCore } from '../simulators/client/device-core.ts';
import { ExecutedCommands } from '../simulators/client/executed-commands.ts';
import { ReportQueue } from '../simulators/client/report-queue.ts';
import { SampleBuffer } from '../simulators/client/sample-buffer.ts';
import { Steadily } from '../simulators/client/steadily.ts';

/** What a device keeps while the server cannot be had: bounds, what is dropped at them, and who is told. */
function sample(n: number): Sample {
  return { ts: n, values: { n } };
}

function numbers(samples: readonly Sample[] = []): unknown[] {
  return samples.map(({ values }) => values['n']);
}

const done: Report = { state: 'succeeded' };
const half: Report = { state: 'running', progress: 50 };

describe('the sample buffer', () => {
  test.each([
    ['drop-oldest', ['dropped', 'dropped', 'stored', 'stored', 'stored'], [2, 3, 4]],
    ['drop-newest', ['stored', 'stored', 'stored', 'dropped', 'dropped'], [0, 1, 2]],
  ] as const)('is bounded in samples: %s', async (whenFull, deliveries, kept) => {
    const buffer = new SampleBuffer({ samplesMax: 3, whenFull });
    const sent = [0, 1, 2, 3, 4].map((n) => buffer.add(sample(n)));
    const parcel = buffer.take();
    expect(numbers(parcel?.samples)).toEqual(kept);
    parcel?.settle('stored');
    expect(await Promise.all(sent)).toEqual(deliveries);
    expect(buffer.size).toBe(0);
  });

  test('is bounded in bytes', () => {
    const bytes = JSON.stringify(sample(0)).length;
    const buffer = new SampleBuffer({ bytesMax: 3 * bytes });
    for (let n = 0; n < 9; n += 1) void buffer.add(sample(n));
    expect(numbers(buffer.take()?.samples)).toEqual([6, 7, 8]);
  });

  test('stays bounded when what was under way comes back', () => {
    const buffer = new SampleBuffer({ samplesMax: 3 });
    for (let n = 0; n < 3; n += 1) void buffer.add(sample(n));
    const parcel = buffer.take();
    for (let n = 3; n < 5; n += 1) void buffer.add(sample(n));
    parcel?.putBack();
    expect(numbers(buffer.take()?.samples)).toEqual([2, 3, 4]);
  });

  test('refuses at once a sample that no message could carry', async () => {
    const buffer = new SampleBuffer();
    expect(await buffer.add({ ts: 1, values: { text: 'x'.repeat(300_000) } })).toBe('refused');
    expect(buffer.size).toBe(0);
  });

  test('finds the one sample that the server will not take, and loses no other', async () => {
    const buffer = new SampleBuffer();
    const sent = Array.from({ length: 100 }, (_, n) => buffer.add(sample(n)));
    let requests = 0;
    for (let parcel = buffer.take(); parcel !== undefined; parcel = buffer.take()) {
      requests += 1;
      if (numbers(parcel.samples).includes(37)) parcel.refused();
      else parcel.settle('stored');
    }
    const deliveries = await Promise.all(sent);
    expect(deliveries.flatMap((delivery, n) => (delivery === 'stored' ? [] : [[n, delivery]]))).toEqual([[37, 'refused']]);
    expect(requests).toBeLessThan(30);
  });

  test('gives up a sample with which twenty connections have ended', async () => {
    const buffer = new SampleBuffer();
    const sent = buffer.add(sample(1));
    for (let i = 0; i < 20; i += 1) buffer.take(1)?.blame();
    expect(await sent).toBe('dropped');
  });
});

describe('the report queue', () => {
  function queue(reportsMax?: number) {
    const settled: [string, Report, Delivery][] = [];
    return { settled, reports: new ReportQueue((...what) => settled.push([what[0], what[1], what[2]]), reportsMax) };
  }

  test('hands out ends before progress, and of a command one at a time', () => {
    const { reports, settled } = queue();
    reports.add('a', half);
    reports.add('b', done);
    const [first, second] = [reports.take(), reports.take()];
    expect([first?.commandId, second?.commandId]).toEqual(['b', 'a']);
    reports.add('a', done);
    expect(reports.take()).toBeUndefined();
    second?.settle('stored');
    const third = reports.take();
    expect(third).toMatchObject({ commandId: 'a', report: done });
    first?.settle('stored');
    third?.settle('stored');
    expect(settled).toEqual([
      ['a', half, 'stored'],
      ['b', done, 'stored'],
      ['a', done, 'stored'],
    ]);
    expect(reports.size).toBe(0);
  });

  test('lets nothing follow an end, and a newer word take the place of one that comes back', () => {
    const { reports } = queue();
    reports.add('a', half);
    const under = reports.take();
    reports.add('a', done);
    reports.add('a', half);
    under?.putBack();
    expect(reports.take()?.report).toEqual(done);
    expect(reports.take()).toBeUndefined();
  });

  test('puts behind the others what could not be sent', () => {
    const { reports } = queue();
    for (const id of ['a', 'b']) reports.add(id, done);
    reports.take()?.putBack();
    expect(reports.take()?.commandId).toBe('b');
  });

  test('is bounded: progress goes first, then the oldest end', () => {
    const { reports, settled } = queue(2);
    reports.add('a', done);
    reports.add('b', half);
    reports.add('c', done);
    reports.add('d', done);
    expect(settled).toEqual([
      ['b', half, 'dropped'],
      ['a', done, 'dropped'],
    ]);
    expect(reports.size).toBe(2);
  });

  test('settles a parcel once, whatever a link does with it afterwards', () => {
    const { reports, settled } = queue();
    reports.add('a', done);
    const parcel = reports.take();
    parcel?.settle('stored');
    parcel?.putBack();
    parcel?.settle('refused');
    reports.close();
    expect(settled).toEqual([['a', done, 'stored']]);
  });
});

describe('what a program is told of losses', () => {
  function core(options: ClientOptions = {}) {
    const problems: string[] = [];
    const events = { problem: ({ message }: Error) => void problems.push(message), ...options.events };
    return { problems, device: new DeviceCore({ ...options, events }) };
  }

  /** As a link does that gets all through. */
  function sendAll(device: DeviceCore): Sample[] {
    const parcel = device.samples.take();
    parcel?.settle('stored');
    return [...(parcel?.samples ?? [])];
  }

  test('samples that were dropped are counted, told once, and told to the server as soon as it is back', async () => {
    const { device, problems } = core({ buffer: { samplesMax: 2 } });
    const sent = [1, 2, 3, 4, 5].map((n) => device.telemetry({ n }));
    expect(device.counts).toMatchObject({ samplesWaiting: 2 });
    await Promise.all(sent.slice(0, 3));
    expect(problems).toEqual([expect.stringContaining('samples are dropped')]);
    sendAll(device);
    expect(await Promise.all(sent)).toEqual(['dropped', 'dropped', 'dropped', 'stored', 'stored']);
    expect(device.counts).toMatchObject({ samplesDropped: 3, samplesWaiting: 1 });
    expect(sendAll(device)).toMatchObject([{ values: { 'client.samples_dropped': 3 } }]);
    expect(device.counts).toMatchObject({ samplesWaiting: 0 });
  });

  test('the server is not told where a program does not want it', async () => {
    const { device } = core({ buffer: { samplesMax: 1 }, lossMetric: false });
    const sent = [1, 2].map((n) => device.telemetry({ n }));
    await sent[0];
    sendAll(device);
    await Promise.all(sent);
    expect(device.counts).toMatchObject({ samplesDropped: 1, samplesWaiting: 0 });
  });

  test('a listener that throws is a problem, and stops nothing', async () => {
    const { device, problems } = core({
      events: {
        received: () => {
          throw new Error('my fault');
        },
      },
    });
    device.handle('ping', () => 'pong');
    expect(await device.take({ id: 'a', name: 'ping', attempt: 1 })).toBe(true);
    await device.idle();
    expect(device.reports.take()).toMatchObject({ commandId: 'a', report: { state: 'succeeded' } });
    expect(problems).toEqual(['the listener of received threw']);
  });

  test('a command that comes while the device stops is not confirmed', async () => {
    const { device } = core();
    device.beginStop();
    expect(await device.take({ id: 'a', name: 'ping', attempt: 1 })).toBe(false);
  });

  test('ends that found no room are reported when there is some', async () => {
    const executed = new ExecutedCommands({ entriesMax: 5_000 });
    const { device } = core({ executed });
    device.handle('ping', () => 'pong');
    for (let i = 0; i < 1_100; i += 1) {
      await device.take({ id: `c${i}`, name: 'ping', attempt: 1 });
      await device.idle();
    }
    expect(device.counts).toMatchObject({ reportsWaiting: 1_000, reportsDropped: 100 });
    const told = new Set<string>();
    for (let parcel = device.reports.take(); parcel !== undefined; parcel = device.reports.take()) {
      told.add(parcel.commandId);
      parcel.settle('stored');
    }
    expect(told.size).toBe(1_100);
    expect(executed.unreported()).toEqual([]);
  });
});

test('a device that is always on does not ask a server that is away more often because there is more to say', async () => {
  let tries = 0;
  let tried: () => void = () => {};
  const steadily = new Steadily(async () => {
    tries += 1;
    await Promise.resolve();
    tried();
    return { isAll: false, retryAfterMs: 60_000 };
  });
  const first = new Promise<void>((resolve) => (tried = resolve));
  steadily.resume();
  await first;
  for (let i = 0; i < 100; i += 1) {
    steadily.poke();
    await Promise.resolve();
  }
  expect(tries).toBe(1);
  steadily.pause();
});
