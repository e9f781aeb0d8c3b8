import { encode } from 'cborg';
import type { FastifyReply, FastifyRequest } from 'fastify';
import Negotiator from 'negotiator';
import { commandMessage } from '../devices/command-message.ts';
import type { Command } from '../devices/command.ts';
import { CURSOR_CHARS } from '../devices/cursor.ts';
import { rfc3339 } from './times.ts';

/** How devices are answered: in JSON or CBOR, whichever they accept, with the size of each command known before it is leased. */
export type AnswerFormat = 'json' | 'cbor';

/** An answer with commands. `cursor`, `sleep` and what else goes on top are of a size that `envelopeBytes` allows for. */
export type CommandsAnswer = {
  readonly commands: readonly Command[];
  readonly more: boolean;
  readonly cursor: string;
  readonly sleep: { readonly untilSeconds: number; /** Epoch milliseconds. */ readonly wakeAt: number; readonly reason: string };
};

/** For what speaks SenML alone: commands are no measurements, so they come in the plain form of the same encoding. */
const FORMAT_OF_TYPE: Readonly<Record<string, AnswerFormat>> = {
  'application/json': 'json',
  'application/cbor': 'cbor',
  'application/senml+json': 'json',
  'application/senml+cbor': 'cbor',
};
const JSON_FIRST = Object.keys(FORMAT_OF_TYPE);
const CBOR_FIRST = ['application/cbor', 'application/json', 'application/senml+cbor', 'application/senml+json'];
const CONTENT_TYPE: Readonly<Record<AnswerFormat, string>> = {
  json: 'application/json; charset=utf-8',
  cbor: 'application/cbor',
};

/** By `Accept` (RFC 9110, 12.5.1); `standard` when it leaves the choice, and also when it allows neither: a device cannot do better than try. */
export function answerFormatOf({ headers }: Pick<FastifyRequest, 'headers'>, standard: AnswerFormat = 'json'): AnswerFormat {
  const { accept } = headers;
  if (accept === undefined || accept === '*/*') return standard;
  const exact = FORMAT_OF_TYPE[accept];
  if (exact !== undefined) return exact;
  const chosen = new Negotiator({ headers: { accept } }).mediaType(standard === 'json' ? JSON_FIRST : CBOR_FIRST);
  return (chosen !== undefined && FORMAT_OF_TYPE[chosen]) || standard;
}

/** Sends a small answer without commands. */
export function sendAnswer(reply: FastifyReply, format: AnswerFormat, status: number, body: object): void {
  void reply
    .code(status)
    .header('content-type', CONTENT_TYPE[format])
    .send(format === 'json' ? JSON.stringify(body) : asBuffer(encode(body)));
}

/** The encoder of one answer with commands, in the format that the request accepts. `more` are fields that stand beside `commands`. */
export function answerEncoderFor(
  request: Pick<FastifyRequest, 'headers'>,
  options: { standard?: AnswerFormat; more?: object } = {},
): AnswerEncoder {
  return new AnswerEncoder(answerFormatOf(request, options.standard), options.more);
}

type Encoded = { readonly attempt: number; readonly text?: string; readonly octets?: Uint8Array; readonly bytes: number };

export class AnswerEncoder {
  readonly format: AnswerFormat;
  readonly #more: object | undefined;
  readonly #encoded = new Map<string, Encoded>();

  constructor(format: AnswerFormat, more?: object) {
    this.format = format;
    this.#more = more;
  }

  /** Octets of the answer without its commands, at the most. */
  get envelopeBytes(): number {
    return ENVELOPE_BYTES[this.format] + (this.#more === undefined ? 0 : encodedBytes(this.format, this.#more));
  }

  /** Octets that a command, still to be leased, takes in the answer, separator included. What is encoded for it is kept and sent. */
  readonly sizeOf = (command: Command): number => {
    const attempts = command.attempts + 1;
    const encoded = this.#encode({ ...command, attempts });
    this.#encoded.set(command.id, encoded);
    return encoded.bytes;
  };

  send(reply: FastifyReply, status: number, { commands, sleep, ...rest }: CommandsAnswer): void {
    const around = { ...this.#more, ...rest, sleep: { ...sleep, wakeAt: rfc3339(sleep.wakeAt) } };
    const messages = commands.map((command) => {
      const had = this.#encoded.get(command.id);
      return had?.attempt === command.attempts ? had : this.#encode(command);
    });
    void reply
      .code(status)
      .header('content-type', CONTENT_TYPE[this.format])
      .send(this.format === 'json' ? inJson(messages, around) : inCbor(messages, around));
  }

  #encode(command: Command): Encoded {
    const message = commandMessage(command);
    const attempt = command.attempts;
    if (this.format === 'json') {
      const text = JSON.stringify(message);
      return { attempt, text, bytes: Buffer.byteLength(text) + 1 };
    }
    const { payload } = message;
    const octets = encode(payload === undefined ? message : { ...message, payload: Buffer.from(payload, 'base64') });
    return { attempt, octets, bytes: octets.length };
  }
}

/** `around` is never empty. */
function inJson(messages: readonly Encoded[], around: object): string {
  return `{"commands":[${messages.map(({ text }) => text).join(',')}],${JSON.stringify(around).slice(1)}`;
}

const COMMANDS_KEY = encode('commands');

/** The map that `around` is, with one entry more (RFC 8949, 3): its head is one octet, since it has a handful of entries. */
function inCbor(messages: readonly Encoded[], around: object): Buffer {
  const entries = encode(around);
  const head = 0xa0 + Object.keys(around).length + 1;
  const chunks = [Uint8Array.of(head), entries.subarray(1), COMMANDS_KEY, arrayHead(messages.length)];
  for (const { octets } of messages) if (octets !== undefined) chunks.push(octets);
  return Buffer.concat(chunks);
}

/** The head of a definite-length array (RFC 8949, 3.1): major type 4 with the count in the head, one octet or two. */
function arrayHead(count: number): Uint8Array {
  if (count < 24) return Uint8Array.of(0x80 | count);
  return count < 256 ? Uint8Array.of(0x98, count) : Uint8Array.of(0x99, count >> 8, count & 0xff);
}

function asBuffer({ buffer, byteOffset, byteLength }: Uint8Array): Buffer {
  return Buffer.from(buffer, byteOffset, byteLength);
}

function encodedBytes(format: AnswerFormat, body: object): number {
  return format === 'json' ? Buffer.byteLength(JSON.stringify(body)) : encode(body).length;
}

/** The largest envelope there is, with the head of an array of two octets where the encoding counts. */
const ENVELOPE: object = {
  commands: [],
  more: false,
  cursor: 'x'.repeat(CURSOR_CHARS),
  sleep: { untilSeconds: 2 ** 32 - 1, wakeAt: rfc3339(0), reason: 'schedule' },
};
const ENVELOPE_BYTES: Readonly<Record<AnswerFormat, number>> = {
  json: encodedBytes('json', ENVELOPE),
  cbor: encodedBytes('cbor', ENVELOPE) + 2,
};
