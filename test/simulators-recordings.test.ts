import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { JsonHttp } from '../simulators/client/json-http.ts';
import type { ValueType } from '../simulators/options.ts';
import { readRows, type Row } from '../simulators/replay/csv-rows.ts';
import { examine, type Recording } from '../simulators/replay/examine.ts';
import { TelemetrySender, type SenderParts } from '../simulators/replay/telemetry-sender.ts';
import { parseTimestamp } from '../simulators/replay/timestamp.ts';

let folder: string;
let nth = 0;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'downlink-csv-'));
});

afterAll(() => rm(folder, { recursive: true, force: true }));

async function file(text: string): Promise<string> {
  nth += 1;
  const path = join(folder, `${nth}.csv`);
  await writeFile(path, text);
  return path;
}

async function rows(text: string, type?: ValueType): Promise<Row[]> {
  const all: Row[] = [];
  for await (const row of readRows(await file(text), type)) all.push(row);
  return all;
}

async function values(text: string, type?: ValueType): Promise<Row['value'][]> {
  return (await rows(text, type)).map(({ value }) => value);
}

async function recording(text: string): Promise<Recording> {
  const path = await file(text);
  return examine(() => readRows(path));
}

describe('times', () => {
  test.each([
    ['2013-07-04 00:00:00', '2013-07-04T00:00:00.000Z'],
    ['2013-07-04 05:06', '2013-07-04T05:06:00.000Z'],
    ['2013-07-04', '2013-07-04T00:00:00.000Z'],
    ['2013-07-04T05:06:07Z', '2013-07-04T05:06:07.000Z'],
    ['2013-07-04t05:06:07.5z', '2013-07-04T05:06:07.500Z'],
    ['2013-07-04 05:06:07.123999', '2013-07-04T05:06:07.123Z'],
    ['2013-07-04T05:06:07+02:00', '2013-07-04T03:06:07.000Z'],
    ['2013-07-04T05:06:07-0330', '2013-07-04T08:36:07.000Z'],
    ['2013-07-04 05:06:07 UTC', '2013-07-04T05:06:07.000Z'],
    ['2012-02-29 12:00:00', '2012-02-29T12:00:00.000Z'],
    ['1372896000', '2013-07-04T00:00:00.000Z'],
    ['1372896000.25', '2013-07-04T00:00:00.250Z'],
    ['1372896000123', '2013-07-04T00:00:00.123Z'],
    ['0', '1970-01-01T00:00:00.000Z'],
  ])('%s is %s', (text, iso) => {
    expect(new Date(parseTimestamp(text) as number).toISOString()).toBe(iso);
  });

  test.each([
    ['', 'empty'],
    ['yesterday', 'no time such as'],
    ['04/07/2013 00:00', 'no time such as'],
    ['2013-02-30 00:00:00', 'does not exist'],
    ['2013-02-29', 'does not exist'],
    ['2013-13-01', 'does not exist'],
    ['2013-07-04 24:00:00', 'does not exist'],
    ['2013-07-04 05:60:00', 'does not exist'],
    ['2013-07-04T00:00:00+25:00', 'zone that does not exist'],
    ['1372896000123456', 'finer than milliseconds'],
    ['1372896000123456789', 'finer than milliseconds'],
  ])('%j is none: %s', (text, why) => {
    expect(parseTimestamp(text)).toEqual({ fault: expect.stringContaining(why) as string });
  });
});

describe('rows', () => {
  test('a byte order mark, CRLF, quotes, empty lines, spaces and other columns are no matter', async () => {
    const text =
      '\uFEFFid,"Value", timestamp\r\n1,"1.5",2026-01-01\r\n\r\n2, -2e3 ,"2026-01-02 00:00:00"\r\n   \r\n3,.5,2026-01-03';
    expect(await rows(text)).toEqual([
      { row: 1, ts: Date.parse('2026-01-01T00:00:00Z'), value: 1.5 },
      { row: 2, ts: Date.parse('2026-01-02T00:00:00Z'), value: -2000 },
      { row: 3, ts: Date.parse('2026-01-03T00:00:00Z'), value: 0.5 },
    ]);
  });

  test('the first row tells numbers from true and false; texts are asked for', async () => {
    expect(await values('timestamp,value\n1,true\n2,FALSE\n')).toEqual([true, false]);
    expect(await values('timestamp,value\n1,eco\n2,12\n3,"a, ""b"""\n', 'string')).toEqual(['eco', '12', 'a, "b"']);
    await expect(values('timestamp,value\n1,eco\n')).rejects.toThrow('--type string');
  });

  test.each([
    ['an empty file', '', 'is empty'],
    [
      'no header',
      '2026-01-01,5\n2026-01-02,6\n',
      'the first line must name the columns timestamp and value; it is "2026-01-01,5"',
    ],
    ['a header alone', 'timestamp,value\n\n', 'has a header and no rows'],
    ['a bad time', 'timestamp,value\n2026-01-01,1\n\n2026-01-32,2\n', 'row 2 (line 4): timestamp "2026-01-32" does not exist'],
    ['a bad number', 'timestamp,value\r\n1,1\r\n2,1\r\n3,1;5\r\n', 'row 3 (line 4): value "1;5" is not a number'],
    ['a missing value', 'timestamp,value\n1,1\n2,\n', 'row 2 (line 3): value is empty'],
    ['a short row', 'timestamp,value\n1,1\n2\n', 'row 2 (line 3): it has 1 of 2 columns'],
    ['not a number', 'timestamp,value\n1,NaN\n', 'row 1 (line 2): value "NaN"'],
    ['no finite number', 'timestamp,value\n1,1e999\n', 'row 1 (line 2): value "1e999"'],
    ['another type', 'timestamp,value\n1,1\n2,true\n', 'row 2 (line 3): value "true" is not a number'],
    ['an open quote', 'timestamp,value\n1,1\n2,"3\n4,5\n', 'a quote is opened and never closed'],
  ])('%s is said, with its place', async (_what, text, message) => {
    await expect(rows(text)).rejects.toThrow(message);
  });

  test('a file that is not there, or is a folder, is said to be', async () => {
    await expect(readRows(join(folder, 'none.csv')).next()).rejects.toThrow('none.csv cannot be read (ENOENT)');
    await expect(readRows(folder).next()).rejects.toThrow('is not a file');
  });
});

type Sent = { ts: number; values: { m: number } }[];

/** A sender, and a server that answers with `answers` one after the other, then takes everything. */
function sender(
  answers: (number | 'none')[],
  more: Partial<SenderParts> = {},
): { sender: TelemetrySender; taken: Sent[]; waits: string[] } {
  const taken: Sent[] = [];
  const waits: string[] = [];
  const http: JsonHttp = (_method, _path, body) => {
    const answer = answers.shift() ?? 202;
    if (answer === 'none') return Promise.reject(new Error('cut'));
    if (answer < 300) taken.push(body as Sent);
    return Promise.resolve({
      status: answer,
      body: { code: 'code', detail: `said ${answer}` },
      retryAfterMs: answer === 503 ? 1 : undefined,
    });
  };
  const signal = new AbortController().signal;
  const parts = { http, metric: 'm', oneByOne: false, signal, onWait: (why: string) => waits.push(why), ...more };
  return { sender: new TelemetrySender(parts), taken, waits };
}

describe('sending', () => {
  test('goes on after lost answers and a busy server, and counts each row once', async () => {
    const { sender: sending, taken, waits } = sender(['none', 503, 429]);
    for (let i = 0; i < 1_500; i += 1) await sending.add(i, i);
    await sending.drain();
    expect(sending.sent).toBe(1_500);
    expect(taken.flat()).toHaveLength(1_500);
    expect(waits).toEqual(expect.arrayContaining(['no answer (cut)', 'said 503', 'said 429']));
  });

  test('ends at the first refusal, with the words of the server', async () => {
    const { sender: sending } = sender([400]);
    await sending.add(1, 1);
    await expect(sending.drain()).rejects.toThrow('The server refuses the readings: said 400');
    expect(sending.sent).toBe(0);
  });

  test.each([true, false])('the last of several readings with one time is sent last (one by one: %s)', async (oneByOne) => {
    const { sender: sending, taken } = sender([], { oneByOne });
    for (let i = 0; i < 2_500; i += 1) await sending.add(Math.floor(i / 3), i);
    await sending.drain();
    const last = new Map(taken.flat().map(({ ts, values: { m } }) => [ts, m]));
    expect(last.size).toBe(834);
    for (const [ts, m] of last) expect(m).toBe(Math.min(2_499, ts * 3 + 2));
    for (const message of taken) expect(message.length).toBeLessThanOrEqual(1_000);
    expect(sending.sent).toBe(2_500);
  });

  test('messages stay within what the server takes, also in bytes', async () => {
    const { sender: sending, taken } = sender([]);
    for (let i = 0; i < 1_000; i += 1) await sending.add(i, 'x'.repeat(1_000));
    await sending.drain();
    expect(taken.flat()).toHaveLength(1_000);
    for (const message of taken) expect(Buffer.byteLength(JSON.stringify(message))).toBeLessThanOrEqual(256 * 1024);
  });
});

describe('what a recording holds', () => {
  test('of rows with the same time the last one counts', async () => {
    expect(await recording('timestamp,value\n1,5\n1,7\n2,9\n2,11\n2,13\n')).toEqual({
      rows: 5,
      distinctTimes: 2,
      from: 1_000,
      to: 2_000,
      statistics: { mean: 10, min: 7, max: 13 },
    });
  });

  test('rows out of order count the same', async () => {
    expect(await recording('timestamp,value\n3,1\n1,5\n2,9\n1,3\n3,2\n')).toEqual({
      rows: 5,
      distinctTimes: 3,
      from: 1_000,
      to: 3_000,
      firstRowOutOfOrder: 2,
      statistics: { mean: 14 / 3, min: 2, max: 9 },
    });
  });

  test('a fault behind a row out of order is still found before anything is sent', async () => {
    await expect(recording('timestamp,value\n3,1\n1,5\n2,oops\n')).rejects.toThrow('row 3 (line 4)');
  });

  test('the mean of many numbers loses nothing to rounding', async () => {
    const text = `timestamp,value\n${Array.from({ length: 10_000 }, (_, i) => `${i},${i % 2 === 0 ? 1e12 + 0.1 : -1e12}`).join('\n')}`;
    const { statistics } = await recording(text);
    const exact = (1e12 + 0.1 - 1e12) / 2;
    expect(Math.abs((statistics?.mean ?? 0) - exact) / exact).toBeLessThan(1e-12);
  });

  test('true and false have no mean', async () => {
    expect(await recording('timestamp,value\n1,true\n2,false\n')).toEqual({ rows: 2, distinctTimes: 2, from: 1_000, to: 2_000 });
  });
});
