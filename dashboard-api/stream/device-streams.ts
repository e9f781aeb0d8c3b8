import type { ServerResponse } from 'node:http';
import { returnSeconds } from '../../broker/return-pace.ts';
import type { Limits } from '../../broker/limits/limits.ts';
import { SECOND_MS } from '../../devices/clock.ts';
import type { Device } from '../../devices/device.ts';
import { DownlinkError } from '../../devices/downlink-error.ts';
import type { ApiParts } from '../api-parts.ts';
import { DeviceStream } from './device-stream.ts';
import { BEAT_MS } from './event-stream.ts';

/** All devices' streams of commands: how many there may be, one timer for their beats, and their ends. */
const RETRY_SECONDS = 30;

type Opening = { readonly deviceId: string; isWithdrawn: boolean };
type Parts = Pick<ApiParts, 'dispatcher' | 'notifier' | 'ledger' | 'pull' | 'presence' | 'registry'>;

export type StreamLimits = Pick<Limits, 'bounds' | 'reached'>;

export class DeviceStreams {
  readonly #parts: Parts;
  readonly #limits: StreamLimits;
  /** In the order of their opening. */
  readonly #streams = new Set<DeviceStream>();
  readonly #ofDevice = new Map<string, DeviceStream[]>();
  /** About to open. */
  readonly #openings = new Set<Opening>();
  #beats: NodeJS.Timeout | undefined;

  constructor(parts: Parts, limits: StreamLimits) {
    this.#parts = parts;
    this.#limits = limits;
    parts.registry.onCredentialGone((deviceId) => {
      for (const opening of this.#openings) if (opening.deviceId === deviceId) opening.isWithdrawn = true;
      for (const stream of [...(this.#ofDevice.get(deviceId) ?? [])]) this.#end(stream, 'the token was withdrawn');
    });
  }

  get size(): number {
    return this.#streams.size;
  }

  /** Throws `too_many_streams`. Call it before `open`, while the request can still be refused. */
  assertRoom({ id }: Device): void {
    const streamsMax = this.#limits.bounds.device_streams;
    if (this.#streams.size < streamsMax) return;
    this.#limits.reached('device_streams', { device: id });
    throw new DownlinkError('too_many_streams', `${streamsMax} streams of devices are open, as many as the server allows`, {
      retryAfterSeconds: RETRY_SECONDS,
    });
  }

  /**
   * Confirms what the device has, before `open`. Throws `invalid_cursor`, `storage_unavailable`, and `unauthorized` when the token was withdrawn
   * meanwhile. `at` names where the id was given.
   */
  async confirm(device: Device, lastEventId: string, at: string): Promise<void> {
    const opening = { deviceId: device.id, isWithdrawn: false };
    this.#openings.add(opening);
    try {
      await this.#parts.pull.confirmThrough(device, lastEventId, at);
    } finally {
      this.#openings.delete(opening);
    }
    if (opening.isWithdrawn) throw new DownlinkError('unauthorized', 'the token was withdrawn');
  }

  /** From now on the device's commands go out on this response, which is nobody else's any more. */
  open(device: Device, response: ServerResponse): void {
    const { dispatcher, notifier, ledger, pull, presence } = this.#parts;
    const { id } = device;
    const [oldest, ...others] = this.#ofDevice.get(id) ?? [];
    // A device whose connection died unseen opens another; the oldest gives way.
    if (oldest !== undefined && others.length + 1 >= this.#limits.bounds.device_streams_per_device) {
      this.#limits.reached('device_streams_per_device', { device: id });
      this.#end(oldest, 'newer streams took its place');
    }

    const stream = new DeviceStream(id, response, {
      cursorOf: (after, through) => pull.cursorOf(device, { way: 'sse', after, through }),
      nextHandover: () => ledger.nextHandover(),
      backlogBytesMax: this.#limits.bounds.stream_backlog_bytes,
      onFull: () => this.#limits.reached('stream_backlog_bytes', { device: id }),
      onDrain: () => dispatcher.dispatch(id),
    });
    this.#streams.add(stream);
    this.#ofDevice.set(id, [...(this.#ofDevice.get(id) ?? []), stream]);
    response.once('close', () => this.#leave(stream));
    response.on('error', () => response.destroy());
    this.#beats ??= setInterval(() => {
      for (const one of this.#streams) one.beat();
    }, BEAT_MS).unref();
    presence.session(id, 1);
    stream.open();
    dispatcher.open(stream);
    notifier.open(stream);
  }

  /** Ends all. What they had not confirmed stays as it is recorded; the next start takes it back. */
  close(): void {
    clearInterval(this.#beats);
    const count = this.#streams.size;
    for (const [at, stream] of [...this.#streams].entries()) {
      stream.close('the server is stopping', returnSeconds(at, count) * SECOND_MS);
    }
    this.#streams.clear();
    this.#ofDevice.clear();
  }

  #end(stream: DeviceStream, why: string): void {
    stream.close(why);
    this.#leave(stream);
  }

  #leave(stream: DeviceStream): void {
    if (!this.#streams.delete(stream)) return;
    const { deviceId } = stream;
    const others = (this.#ofDevice.get(deviceId) ?? []).filter((other) => other !== stream);
    if (others.length === 0) this.#ofDevice.delete(deviceId);
    else this.#ofDevice.set(deviceId, others);
    if (this.#streams.size === 0) {
      clearInterval(this.#beats);
      this.#beats = undefined;
    }
    this.#parts.presence.session(deviceId, -1);
    this.#parts.notifier.close(stream);
    this.#parts.dispatcher.close(stream);
  }
}
