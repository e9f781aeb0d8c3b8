import { decode } from 'cborg';
import { describe, expect, test } from 'vitest';
import { answerEncoderFor, answerFormatOf } from '../dashboard-api/device-answer.ts';
import type { Command } from '../devices/command.ts';
import { CURSOR_CHARS } from '../devices/cursor.ts';

describe('the format of an answer', () => {
  test.each<[string | undefined, 'json' | 'cbor', 'json' | 'cbor']>([
    [undefined, 'json', 'json'],
    [undefined, 'cbor', 'cbor'],
    ['*/*', 'cbor', 'cbor'],
    ['application/cbor', 'json', 'cbor'],
    ['application/json', 'cbor', 'json'],
    ['Application/CBOR', 'json', 'cbor'],
    ['application/json;q=0.5, application/cbor', 'json', 'cbor'],
    ['application/cbor;q=0.5, application/json;q=0.9', 'json', 'json'],
    ['text/html, application/*;q=0.1', 'cbor', 'cbor'],
    ['application/cbor;q=0, */*', 'json', 'json'],
    ['application/senml+cbor', 'json', 'cbor'],
    ['application/senml+json', 'cbor', 'json'],
    ['text/html', 'json', 'json'],
    ['nonsense;;;=,', 'cbor', 'cbor'],
  ])('for Accept: %s, in place of %s, is %s', (accept, standard, format) => {
    expect(answerFormatOf({ headers: accept === undefined ? {} : { accept } }, standard)).toBe(format);
  });
});

const COMMAND: Command = {
  id: '019b76da-a800-7000-8000-000000000001',
  deviceId: 'label',
  name: 'show',
  params: { price: '1,99 €', n: [1.5, -3, 2 ** 40, null, true] },
  priority: 'normal',
  confirm: 'result',
  reportTimeoutSeconds: 300,
  maxAttempts: 10,
  queuedAt: 1_767_225_600_000,
  historyNs: '1767225600000000000',
  state: 'queued',
  attempts: 9,
  wakes: 0,
};
const OCTETS = Buffer.from(Array.from({ length: 256 }, (_, i) => 255 - i));
const IMAGE: Command = {
  ...COMMAND,
  id: `${COMMAND.id.slice(0, -1)}2`,
  payload: OCTETS.toString('base64'),
  contentType: 'image/png',
};

function sent(accept: string, commands: readonly Command[], more?: object): { body: Buffer; bytesPlanned: number; type: string } {
  const encoder = answerEncoderFor({ headers: { accept } }, more === undefined ? {} : { more });
  const bytesPlanned = commands.reduce((sum, command) => sum + encoder.sizeOf(command), encoder.envelopeBytes);
  let body = Buffer.alloc(0);
  let type = '';
  const reply = {
    code: () => reply,
    header: (_: string, value: string) => {
      type = value;
      return reply;
    },
    send: (given: string | Buffer) => {
      body = Buffer.from(given);
      return reply;
    },
  };
  encoder.send(reply as never, 200, {
    commands: commands.map((command) => ({ ...command, attempts: command.attempts + 1 })),
    more: false,
    cursor: 'c'.repeat(CURSOR_CHARS),
    sleep: { untilSeconds: 4_294_967_295, wakeAt: 1_767_225_600_000, reason: 'schedule' },
  });
  return { body, bytesPlanned, type };
}

describe('an answer with commands', () => {
  const expected = {
    commands: [
      {
        id: COMMAND.id,
        name: 'show',
        params: COMMAND.params,
        attempt: 10,
        issuedAt: '2026-01-01T00:00:00.000Z',
      },
    ],
    more: false,
    cursor: 'c'.repeat(CURSOR_CHARS),
    sleep: { untilSeconds: 4_294_967_295, wakeAt: '2026-01-01T00:00:00.000Z', reason: 'schedule' },
  };

  test('says the same in JSON and CBOR', () => {
    const json = sent('application/json', [COMMAND]);
    const cbor = sent('application/cbor', [COMMAND]);
    expect(json.type).toBe('application/json; charset=utf-8');
    expect(JSON.parse(json.body.toString())).toEqual(expected);
    expect(cbor.type).toBe('application/cbor');
    expect(decode(cbor.body)).toEqual(expected);
    expect(cbor.body.length).toBeLessThan(json.body.length);
  });

  test('holds octets as base64 in JSON and as they are in CBOR', () => {
    const inJson = JSON.parse(sent('application/json', [IMAGE]).body.toString()) as typeof expected;
    expect(inJson.commands[0]).toMatchObject({ payload: IMAGE.payload, contentType: 'image/png' });
    const inCbor = decode(sent('application/cbor', [IMAGE]).body) as { commands: { payload: Uint8Array }[] };
    expect(Buffer.from(inCbor.commands[0]?.payload ?? [])).toEqual(OCTETS);
  });

  test.each(['application/json', 'application/cbor'])('in %s is as large as was planned, or a few octets less', (accept) => {
    for (const count of [0, 1, 2, 23, 24, 100, 300]) {
      for (const more of [undefined, { time: '2026-01-01T00:00:00.000Z' }]) {
        const commands = Array.from({ length: count }, (_, i) => (i % 2 === 0 ? COMMAND : IMAGE));
        const { body, bytesPlanned } = sent(accept, commands, more);
        expect(bytesPlanned - body.length).toBeGreaterThanOrEqual(0);
        expect(bytesPlanned - body.length).toBeLessThanOrEqual(4);
      }
    }
  });
});
