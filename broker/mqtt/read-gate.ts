import type { Duplex } from 'node:stream';

/**
 * Decides when what a connection has sent is read. aedes reads by `read(null)`: what it is not given stays in the stream, in the socket, and in the end with
 * the client. It is held for as long as anybody says so; else it is read when it is its turn.
 */
export type Reading = {
  /** Has `read` called once, in a later turn of the event loop. */
  lineUp(turn: Turn): void;
  /** Whether aedes reads at all: it asks again when it does. */
  mayRead(): boolean;
  take(chunk: Buffer): void;
};

export type Turn = { read(): void };

class Gate implements Turn {
  readonly #stream: Duplex;
  readonly #reading: Reading;
  #holders: Set<object> | undefined;
  #isInLine = false;

  constructor(stream: Duplex, reading: Reading) {
    this.#stream = stream;
    this.#reading = reading;
  }

  hold(holder: object): void {
    this.#holders ??= new Set();
    this.#holders.add(holder);
  }

  release(holder: object): void {
    this.#holders?.delete(holder);
    if (this.#holders?.size === 0) this.#holders = undefined;
  }

  /** aedes asks. What is empty is read at once, since a stream tells of its end then. */
  ask(): unknown {
    if (this.#holders !== undefined) return null;
    if (this.#stream.readableLength === 0) return readOf(this.#stream);
    if (!this.#isInLine) {
      this.#isInLine = true;
      this.#reading.lineUp(this);
    }
    return null;
  }

  read(): void {
    this.#isInLine = false;
    if (this.#holders !== undefined || !this.#reading.mayRead()) return;
    const chunk = readOf(this.#stream) as Buffer | null;
    if (chunk !== null) this.#reading.take(chunk);
  }
}

const gates = new WeakMap<Duplex, Gate>();

export function readInTurn(stream: Duplex, reading: Reading): void {
  gates.set(stream, new Gate(stream, reading));
  stream.read = gatedRead;
}

export function holdReads(stream: Duplex, holder: object): void {
  gates.get(stream)?.hold(holder);
}

/** It is for the holder to have aedes read on. */
export function letReads(stream: Duplex, holder: object): void {
  gates.get(stream)?.release(holder);
}

/** In the place of the stream's own, one for all: there are many connections. Only `null` is aedes'. */
function gatedRead(this: Duplex, size?: number | null): unknown {
  return size === null ? gates.get(this)?.ask() : readOf(this, size);
}

function readOf(stream: Duplex, size?: number): unknown {
  return (Object.getPrototypeOf(stream) as Duplex).read.call(stream, size);
}
