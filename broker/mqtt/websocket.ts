import type { IncomingMessage, Server } from 'node:http';
import type { Duplex } from 'node:stream';
import { createWebSocketStream, WebSocketServer } from 'ws';
import { passCertificateOn } from '../tls/client-certificate.ts';

/** MQTT over WebSocket on the HTTP port, path `/mqtt`, subprotocol `mqtt` [MQTT-6.0.0-3]. */
const PATH = '/mqtt';
/** Close code of RFC 6455, 7.4.1. */
const UNSUPPORTED_DATA = 1003;
/** Of the fixed header of a packet [MQTT-2.2]. */
const HEADER_BYTES_MAX = 5;

export class MqttWebSocket {
  readonly #sockets: WebSocketServer;

  constructor(servers: readonly Server[], accept: (stream: Duplex, request: IncomingMessage) => void, packetBytesMax: number) {
    this.#sockets = new WebSocketServer({
      noServer: true,
      maxPayload: packetBytesMax + HEADER_BYTES_MAX,
      perMessageDeflate: false,
      handleProtocols: (offered) => (offered.has('mqtt') ? 'mqtt' : false),
    });
    this.#sockets.on('connection', (socket, request) => {
      const stream = createWebSocketStream(socket);
      passCertificateOn(request.socket, stream);
      // [MQTT-6.0.0-1]
      socket.on('message', (_, isBinary) => {
        if (!isBinary) socket.close(UNSUPPORTED_DATA);
      });
      stream.on('error', () => socket.terminate());
      accept(stream, request);
    });
    for (const http of servers) http.on('upgrade', (request, socket, head) => this.#upgrade(request, socket, head));
  }

  close(): void {
    for (const socket of this.#sockets.clients) socket.terminate();
    this.#sockets.close();
  }

  #upgrade(request: IncomingMessage, socket: Duplex, head: Buffer): void {
    socket.on('error', () => socket.destroy());
    if (request.url?.split('?', 1)[0] !== PATH) {
      socket.end(`HTTP/1.1 404 Not Found\r\nConnection: close\r\nContent-Length: 0\r\n\r\n`);
      return;
    }
    this.#sockets.handleUpgrade(request, socket, head, (webSocket) => this.#sockets.emit('connection', webSocket, request));
  }
}
