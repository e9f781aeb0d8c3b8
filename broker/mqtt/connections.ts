import type { Server } from 'node:net';
import type { Duplex } from 'node:stream';
import type { Client, ConnectPacket } from 'aedes';
import { SECOND_MS } from '../../devices/clock.ts';
import type { DownlinkError } from '../../devices/downlink-error.ts';
import type { BoundName, Bounds } from '../bounds.ts';
import type { Limits } from '../limits/limits.ts';
import type { Metrics } from '../metrics.ts';
import type { RefusedLogins } from '../refused-logins.ts';
import type { Rejects } from '../telemetry/rejects.ts';
import { refused, type Identity } from './authenticate.ts';
import { ConnectionBounds } from './connection-bounds.ts';
import { hasMoreLevels } from './packet-faults.ts';
import type { PacketBounds } from './packet-reader.ts';
import { isMessageTooLong } from './websocket.ts';

/** All MQTT connections under the bounds, with one timer for them together. */
const CHECK_EVERY_MS = SECOND_MS;
/** CONNACK 2 and 4: there is no such device, or its token is another. */
const WRONG_CREDENTIAL: readonly number[] = [2, 4];
const NOTHING = new Uint8Array();

export class Connections {
  readonly #limits: Limits;
  readonly #metrics: Metrics;
  readonly #rejects: Rejects;
  readonly #refusedLogins: RefusedLogins;
  readonly #open = new Set<ConnectionBounds>();
  readonly #ofClient = new WeakMap<object, ConnectionBounds>();
  #timer: NodeJS.Timeout | undefined;

  constructor(limits: Limits, metrics: Metrics, rejects: Rejects, refusedLogins: RefusedLogins) {
    this.#limits = limits;
    this.#metrics = metrics;
    this.#rejects = rejects;
    this.#refusedLogins = refusedLogins;
  }

  get bounds(): Bounds {
    return this.#limits.bounds;
  }

  /** Connections beyond the bounds are closed before the server takes them. */
  guard(server: Server): void {
    this.#limits.gate.guard(server);
  }

  /** Follows the connection until it closes. `tell` publishes to its device's `errors`. Answers what its packets are to keep to. */
  follow(stream: Duplex, client: Client, address: string, tell: (error: DownlinkError) => void): PacketBounds {
    const connection = new ConnectionBounds({
      limits: this.#limits,
      stream,
      client,
      address,
      tell: (deviceId, error) => {
        tell(error);
        this.#keep(deviceId, error);
      },
    });
    this.#open.add(connection);
    this.#ofClient.set(client, connection);
    stream.once('close', () => {
      connection.close();
      this.#open.delete(connection);
    });
    stream.once('error', (error) => {
      if (isMessageTooLong(error)) connection.end(connection.isLetIn ? 'packet_bytes' : 'connect_bytes');
    });
    this.#timer ??= setInterval(() => {
      const now = this.#limits.now();
      for (const one of this.#open) one.check(now);
    }, CHECK_EVERY_MS).unref();
    return {
      connectBytesMax: this.#limits.bounds.connect_bytes,
      packetBytesMax: this.#limits.bounds.packet_bytes,
      topicLevelsMax: this.#limits.bounds.topic_levels,
      onRefused: (bound) => connection.end(bound),
      onRead: (packets, bytes, isWhole) => connection.took(packets, bytes, isWhole),
    };
  }

  /** The first packet, before anybody looks at who it is from. */
  begin(client: Client, { will }: ConnectPacket): void {
    const connection = this.#ofClient.get(client);
    if (will === undefined || connection === undefined) return;
    if (!connection.takesTopic(will.topic)) connection.end('topic_bytes');
    // What MQTT 3.1 sends is not looked at before.
    else if (hasMoreLevels(will.topic, this.bounds.topic_levels)) connection.end('topic_levels');
  }

  /** Who it is, or a refusal where logins from its address are paused. */
  login(client: Client, identity: Identity): Identity {
    const connection = this.#ofClient.get(client);
    if (connection === undefined) return identity;
    const { logins } = this.#limits;
    const { address } = connection;
    if (identity.kind === 'refused') {
      this.#refusedLogins.count({ transport: 'mqtt', from: address });
      const isWrong = WRONG_CREDENTIAL.includes(identity.returnCode) && logins.wrong(address) > 0;
      return isWrong ? pausedLogins() : identity;
    }
    const id = identity.kind === 'device' ? identity.id : `key:${identity.key.id}`;
    if (logins.right(address, id) > 0) return pausedLogins();
    connection.letIn(id);
    return identity;
  }

  /** False when the topic of a PUBLISH is too long: the connection is closed. */
  takesTopic(client: object | null, topic: string): boolean {
    const connection = client === null ? undefined : this.#ofClient.get(client);
    if (connection === undefined || connection.takesTopic(topic)) return true;
    connection.end('topic_bytes');
    return false;
  }

  /** False when a filter is too long. Each filter of a SUBSCRIBE weighs as much as a message. */
  takesFilter(client: object, filter: string): boolean {
    const connection = this.#ofClient.get(client);
    connection?.took(1, 0, true);
    if (connection?.takesTopic(filter) !== false) return true;
    this.#limits.reached('topic_bytes', { address: connection.address });
    return false;
  }

  /** Something for the device is not sent, since it does not read what was. */
  dropped(deviceId: string): void {
    this.#limits.reached('backlog_bytes', { client: deviceId });
  }

  /** A device's message is not taken, which ends its connection. */
  refusedMessage(bound: BoundName, deviceId: string, error: DownlinkError): void {
    this.#limits.reached(bound, { client: deviceId });
    if (this.#limits.mayTell(deviceId)) this.#keep(deviceId, error);
  }

  close(): void {
    clearInterval(this.#timer);
  }

  #keep(deviceId: string, error: DownlinkError): void {
    this.#metrics.rejects.inc({ transport: 'mqtt', code: error.code });
    this.#rejects.keep(deviceId, { transport: 'mqtt', where: 'connection', body: NOTHING }, error).catch(() => {});
  }
}

function pausedLogins(): Identity {
  return refused('too many wrong credentials came from this address; logins from it are paused');
}
