import { connect, type Socket } from 'node:net';
import { generate, parser, type IConnackPacket, type ISubackPacket, type Packet } from 'mqtt-packet';

/** A raw MQTT 3.1.1 connection: a socket and a parser, so that the load weighs little beside the server. */

/** Connects and waits for the CONNACK. `keepalive` in seconds. Rejects when the server refuses or closes. */
export async function openMqtt(port: number, device: { id: string; token: string }, keepalive = 60): Promise<Socket> {
  const socket = connect({ port, host: '127.0.0.1', noDelay: true });
  socket.write(
    generate({
      cmd: 'connect',
      protocolId: 'MQTT',
      protocolVersion: 4,
      clean: true,
      clientId: device.id,
      keepalive,
      username: device.id,
      password: Buffer.from(device.token),
    }),
  );
  const connack = (await nextPacket(socket)) as IConnackPacket;
  if (connack.cmd !== 'connack' || connack.returnCode !== 0)
    throw new Error(`MQTT connection refused: ${JSON.stringify(connack)}`);
  return socket;
}

/** Subscribes with QoS 1 and acknowledges what comes; `onPayload` is called before the acknowledgement is sent. */
export async function subscribe(socket: Socket, topic: string, onPayload: (payload: Buffer) => void): Promise<void> {
  socket.write(generate({ cmd: 'subscribe', messageId: 1, subscriptions: [{ topic, qos: 1 }] }));
  const suback = (await nextPacket(socket)) as ISubackPacket;
  if (suback.cmd !== 'suback' || suback.granted[0] !== 1) throw new Error(`subscription refused: ${JSON.stringify(suback)}`);
  const incoming = parser();
  incoming.on('packet', (packet: Packet) => {
    if (packet.cmd !== 'publish') return;
    const { payload, messageId } = packet;
    onPayload(payload as Buffer);
    if (messageId !== undefined) socket.write(generate({ cmd: 'puback', messageId }));
  });
  socket.on('data', (chunk: Buffer) => incoming.parse(chunk));
}

function nextPacket(socket: Socket): Promise<Packet> {
  return new Promise((resolve, reject) => {
    const incoming = parser();
    const settle = (): void => {
      socket.off('data', take).off('error', fail).off('close', fail);
    };
    const take = (chunk: Buffer): void => void incoming.parse(chunk);
    const fail = (error?: unknown): void => {
      settle();
      reject(error instanceof Error ? error : new Error('the server closed the MQTT connection'));
    };
    incoming.on('packet', (packet: Packet) => {
      settle();
      resolve(packet);
    });
    socket.on('data', take).on('error', fail).on('close', fail);
  });
}
