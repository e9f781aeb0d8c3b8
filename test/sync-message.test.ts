import { describe, expect, test } from 'vitest';
import type { DownlinkError } from '../devices/downlink-error.ts';
import { parseSync } from '../devices/sync-message.ts';

function fault(message: unknown): { code: string; at: string | undefined } {
  try {
    parseSync(message);
  } catch (error) {
    const { code, at } = error as DownlinkError;
    return { code, at };
  }
  throw new Error('was taken');
}

test('nothing is a whole message', () => {
  expect(parseSync({})).toEqual({ samples: [], reports: [], confirms: [] });
  expect(parseSync({ telemetry: [], reports: [], confirms: [] })).toEqual({ samples: [], reports: [], confirms: [] });
});

test('all parts are read', () => {
  expect(
    parseSync({
      telemetry: [{ temperature: 21.5 }, { ts: 5, values: { ok: true } }],
      reports: [
        { id: 'a', state: 'running', progress: 50, message: 'half' },
        { id: 'a', state: 'succeeded', result: { n: [1] } },
      ],
      confirms: ['b'],
      since: 'abc',
      maxBytes: 1_000,
      limit: 3,
      sentAt: '1970-01-01T00:00:05Z',
    }),
  ).toEqual({
    samples: [{ values: { temperature: 21.5 } }, { ts: 5, values: { ok: true } }],
    reports: [
      { id: 'a', report: { state: 'running', progress: 50, message: 'half' } },
      { id: 'a', report: { state: 'succeeded', result: { n: [1] } } },
    ],
    confirms: ['b'],
    since: 'abc',
    maxBytes: 1_000,
    limit: 3,
    sentAt: 5_000,
  });
});

test('octets in a result, as CBOR has them, become base64', () => {
  const result = { image: Uint8Array.of(255, 0), list: [Uint8Array.of(1)] };
  expect(parseSync({ reports: [{ id: 'a', state: 'succeeded', result }] }).reports[0]?.report.result).toEqual({
    image: '/wA=',
    list: ['AQ=='],
  });
});

test.each([0, 5_000, 4_102_444_800_000, '2100-01-01T00:00:00Z', '4102444800000', 1_700_000_000_000.9])(
  'a clock may say %s',
  (sentAt) => {
    expect(parseSync({ sentAt }).sentAt).toBeTypeOf('number');
  },
);

describe('is refused with its place:', () => {
  test.each<[string, unknown, string, string | undefined]>([
    ['an array', [], 'invalid_request', undefined],
    ['octets', Uint8Array.of(1), 'invalid_request', undefined],
    ['null', null, 'invalid_request', undefined],
    ['an unknown field', { command: 1 }, 'invalid_request', 'command'],
    ['a reading of no type', { telemetry: { a: null } }, 'invalid_telemetry', 'telemetry.a'],
    [
      'a value in an array',
      { telemetry: [{ a: 1 }, { a: 1 }, { ts: 1, values: { t: [] } }] },
      'invalid_telemetry',
      'telemetry[2].values.t',
    ],
    ['a sample that is none', { telemetry: [5] }, 'invalid_telemetry', 'telemetry[0]'],
    ['telemetry that is none', { telemetry: 'x' }, 'invalid_telemetry', 'telemetry'],
    ['telemetry of null', { telemetry: null }, 'invalid_telemetry', 'telemetry'],
    ['reports that are no array', { reports: {} }, 'invalid_request', 'reports'],
    [
      'too many reports',
      { reports: Array.from({ length: 201 }, () => ({ id: 'a', state: 'failed' })) },
      'invalid_request',
      'reports',
    ],
    ['a report that is none', { reports: ['a'] }, 'invalid_report', 'reports[0]'],
    ['a report without an id', { reports: [{ state: 'failed' }] }, 'invalid_report', 'reports[0].id'],
    ['a report on an id of another type', { reports: [{ id: 5, state: 'failed' }] }, 'invalid_report', 'reports[0].id'],
    [
      'a progress beyond the end',
      {
        reports: [
          { id: 'a', state: 'failed' },
          { id: 'b', state: 'running', progress: 101 },
        ],
      },
      'invalid_report',
      'reports[1].progress',
    ],
    ['a state that is none', { reports: [{ id: 'a', state: 'done' }] }, 'invalid_report', 'reports[0].state'],
    ['a field no report has', { reports: [{ id: 'a', state: 'failed', why: 1 }] }, 'invalid_report', 'reports[0].why'],
    ['confirms that are no array', { confirms: 'a' }, 'invalid_request', 'confirms'],
    ['a confirm that is no id', { confirms: ['a', ''] }, 'invalid_request', 'confirms[1]'],
    ['too many confirms', { confirms: Array.from({ length: 1_001 }, () => 'a') }, 'invalid_request', 'confirms'],
    ['a cursor of another type', { since: 5 }, 'invalid_request', 'since'],
    ['a size too small for any answer', { maxBytes: 63 }, 'invalid_request', 'maxBytes'],
    ['a size beyond all answers', { maxBytes: 2 ** 40 }, 'invalid_request', 'maxBytes'],
    ['a size that is no whole number', { maxBytes: 300.5 }, 'invalid_request', 'maxBytes'],
    ['no commands', { limit: 0 }, 'invalid_request', 'limit'],
    ['too many commands', { limit: 101 }, 'invalid_request', 'limit'],
    ['a limit as text', { limit: '5' }, 'invalid_request', 'limit'],
    ['a clock before 1970', { sentAt: -1 }, 'invalid_request', 'sentAt'],
    ['a clock beyond 9999', { sentAt: 1e21 }, 'invalid_request', 'sentAt'],
    ['a clock of no form', { sentAt: 'noon' }, 'invalid_request', 'sentAt'],
    ['a clock on February 30', { sentAt: '2026-02-30T00:00:00Z' }, 'invalid_request', 'sentAt'],
  ])('%s', (_, message, code, at) => {
    expect(fault(message)).toEqual({ code, at });
  });
});
