import type { Duplex } from 'node:stream';
import type { Client } from 'aedes';

/**
 * aedes gathers a packet whole, however long it says it is. The guard looks at the length that the fixed header claims after each read, and
 * cuts the connection when it is over the bound, before the body has come in.
 */
type Parsing = { _parser?: { packet?: { length?: number } | null } };

export function guardPacketSize(stream: Duplex, client: Client, bytesMax: number, onCut: () => void): void {
  const parsing = client as Parsing;
  stream.on('readable', () => {
    const claimed = parsing._parser?.packet?.length ?? 0;
    if (claimed <= bytesMax) return;
    onCut();
    stream.destroy();
  });
}
