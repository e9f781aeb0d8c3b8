import type { Duplex } from 'node:stream';

/**
 * Decides when what a connection has sent is read. aedes reads by `read(null)`: what it is not given stays in the stream, in the socket, and in the end with
 * the client. It is held for as long as anybody says so; else it is read when it is its turn.
 */
type Reading = {
  /** Calls what it is given once, in a later turn of the event loop. */
  readonly inTurn: (read: () => void) => void;
  /** Whether aedes reads at all: it asks again when it does. */
  readonly mayRead: () => boolean;
  readonly take: (chunk: Buffer) => void;
};

class Gate {
  readonly holders = new Set<object>();
  readonly #stream: Duplex;
  readonly #read: Duplex['read'];
  readonly #reading: Reading;
  #isInLine = false;

  constructor(stream: Duplex, reading: Reading) {
    this.#stream = stream;
    this.#read = stream.read.bind(stream);
    this.#reading = reading;
  }

  /** In the place of the stream's own. Only `null` is aedes'; what is empty is read at once, since a stream tells of its end then. */
  readonly read = (size?: number | null): unknown => {
    if (size !== null) return this.#read(size);
    if (this.holders.size > 0) return null;
    if (this.#stream.readableLength === 0) return this.#read();
    if (!this.#isInLine) {
      this.#isInLine = true;
      this.#reading.inTurn(this.#onTurn);
    }
    return null;
  };

  readonly #onTurn = (): void => {
    this.#isInLine = false;
    if (this.holders.size > 0 || !this.#reading.mayRead()) return;
    const chunk = this.#read() as Buffer | null;
    if (chunk !== null) this.#reading.take(chunk);
  };
}

const gates = new WeakMap<Duplex, Gate>();

export function readInTurn(stream: Duplex, reading: Reading): void {
  const gate = new Gate(stream, reading);
  gates.set(stream, gate);
  stream.read = gate.read;
}

export function holdReads(stream: Duplex, holder: object): void {
  gates.get(stream)?.holders.add(holder);
}

/** It is for the holder to have aedes read on. */
export function letReads(stream: Duplex, holder: object): void {
  gates.get(stream)?.holders.delete(holder);
}
