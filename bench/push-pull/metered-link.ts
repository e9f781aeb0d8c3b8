import { connect, createServer, type AddressInfo, type Socket } from 'node:net';

/** One device's network: what it connects to in place of the server, which counts the octets on their way. */
export type Direction = 'up' | 'down';

export type MeteredLink = { readonly port: number; close(): Promise<void> };

/** Passes connections on to `targetPort` of this machine. `onOctets` is told of each piece, without TCP's own. */
export async function openMeteredLink(
  targetPort: number,
  onOctets: (direction: Direction, octets: number) => void,
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
    const target = connect(targetPort, '127.0.0.1');
    keep(device);
    keep(target);
    device.on('data', (chunk: Buffer) => onOctets('up', chunk.length));
    target.on('data', (chunk: Buffer) => onOctets('down', chunk.length));
    device.pipe(target);
    target.pipe(device);
    device.once('close', () => target.destroy());
    target.once('close', () => device.destroy());
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
