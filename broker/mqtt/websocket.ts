import type { IncomingMessage, Server } from 'node:http';
import type { Duplex } from 'node:stream';
import { createWebSocketStream, WebSocketServer, type WebSocket } from 'ws';
import type { Bounds } from '../bounds.ts';
import { passCertificateOn } from '../tls/client-certificate.ts';

/** MQTT over WebSocket on the HTTP port, path `/mqtt`, subprotocol `mqtt` [MQTT-6.0.0-3]. */
const PATH = '/mqtt';
/** Close code of RFC 6455, 7.4.1. */
const UNSUPPORTED_DATA = 1003;
/** Of the fixed header of a packet [MQTT-2.2]. */
const HEADER_BYTES_MAX = 5;
/** In the words of ws, which gathers a message whole, however many frames it has: one over the bound is not gathered. */
const TOO_LONG = 'WS_ERR_UNSUPPORTED_MESSAGE_LENGTH';

/** A part of ws that it does not document. */
type Internals = { readonly _receiver: { _maxPayload: number } };

const socketOf = new WeakMap<Duplex, WebSocket>();

/** Once a connection is let in, a message of it may be as large as a packet. What is no stream of a WebSocket is left as it is. */
export function takeLargeMessages(stream: Duplex, packetBytesMax: number): void {
  const socket = socketOf.get(stream) as (WebSocket & Internals) | undefined;
  if (socket !== undefined) socket._receiver._maxPayload = packetBytesMax + HEADER_BYTES_MAX;
}

/** A stream ended with this, since a WebSocket message was larger than may be. */
export function isMessageTooLong({ code }: NodeJS.ErrnoException): boolean {
  return code === TOO_LONG;
}

export class MqttWebSocket {
  readonly #sockets: WebSocketServer;

  constructor(
    servers: readonly Server[],
    accept: (stream: Duplex, request: IncomingMessage) => void,
    { connect_bytes: connectBytesMax }: Bounds,
  ) {
    this.#sockets = new WebSocketServer({
      noServer: true,
      maxPayload: connectBytesMax + HEADER_BYTES_MAX,
      perMessageDeflate: false,
      handleProtocols: (offered) => (offered.has('mqtt') ? 'mqtt' : false),
    });
    this.#sockets.on('connection', (socket, request) => {
      // [MQTT-6.0.0-1]: before the stream hears it, which else would hear that and what comes after, until the client lets go.
      socket.on('message', (_, isBinary) => {
        if (isBinary) return;
        socket.close(UNSUPPORTED_DATA);
        stream.destroy();
      });
      const stream = createWebSocketStream(socket);
      socketOf.set(stream, socket);
      passCertificateOn(request.socket, stream);
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
      // Whether the client lets go or not.
      socket.end(`HTTP/1.1 404 Not Found\r\nConnection: close\r\nContent-Length: 0\r\n\r\n`, () => socket.destroy());
      return;
    }
    this.#sockets.handleUpgrade(request, socket, head, (webSocket) => this.#sockets.emit('connection', webSocket, request));
  }
}
