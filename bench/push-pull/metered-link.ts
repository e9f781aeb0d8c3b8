import { connect, createServer, type AddressInfo, type Socket } from 'node:net';

/** One device's network: what it connects to in place of the server. It takes its time, as networks do, and tells what passes. */
export type MeteredLink = { readonly port: number; close(): Promise<void> };

export type Network = {
  /** There and back, milliseconds; opening a connection takes as long. */
  readonly roundTripMs: number;
};

/**
 * Passes connections on to `targetPort` of this machine. `onOctets` is told of each piece, without TCP's own, when the device sends it or gets it; of a
 * connection's opening as none.
 */
export async function openMeteredLink(
  targetPort: number,
  { roundTripMs }: Network,
  onOctets: (octets: number) => void,
): Promise<MeteredLink> {
  const sockets = new Set<Socket>();
  const keep = (socket: Socket): Socket => {
    sockets.add(socket);
    socket.setNoDelay(true);
    socket.on('error', () => socket.destroy());
    socket.once('close', () => sockets.delete(socket));
    return socket;
  };
  const server = createServer((device) => {
    const target = keep(connect(targetPort, '127.0.0.1'));
    keep(device);
    const openedMs = performance.now();
    onOctets(0);
    device.on('data', (chunk: Buffer) => {
      // What the device sends at once has waited for the connection's opening.
      const openingMs = Math.max(0, openedMs + roundTripMs - performance.now());
      onOctets(chunk.length);
      setTimeout(() => target.write(chunk), openingMs + roundTripMs / 2);
    });
    target.on('data', (chunk: Buffer) => {
      setTimeout(() => {
        onOctets(chunk.length);
        device.write(chunk);
      }, roundTripMs / 2);
    });
    device.once('close', () => setTimeout(() => target.destroy(), roundTripMs));
    target.once('close', () => setTimeout(() => device.destroy(), roundTripMs));
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(0, '127.0.0.1', resolve);
  });
  return {
    port: (server.address() as AddressInfo).port,
    close: () =>
      new Promise((resolve) => {
        for (const socket of sockets) socket.destroy();
        server.close(() => resolve());
      }),
  };
}
