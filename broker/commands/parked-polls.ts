import type { Clock } from '../../devices/clock.ts';
import type { DeviceRegistry } from '../registry/device-registry.ts';
import type { PresenceTracker } from '../registry/presence-tracker.ts';
import { DEFAULT_BOUNDS, type Bounds } from '../bounds.ts';
import { Deadlines } from '../deadlines.ts';
import { returnSeconds } from '../return-pace.ts';
import type { CommandLedger } from './command-ledger.ts';

/**
 * Long polls that wait for a command. A parked poll is an entry here and one in a heap of deadlines: no timer and no promise of its own. When something may
 * be leased the device's polls are offered it, the newest first, since an older one is often of a connection that died unseen.
 *
 * A poll leaves once: answered by an offer, at its deadline, because its device went away (`leave`) or lost its credential, or when the server stops.
 */
export interface ParkedPoll {
  readonly deviceId: string;
  /** Something may be leased now. True when the poll was answered with it, false when it stays. */
  offer(): boolean;
  /** It is over without a command; already let go of when this is called. */
  end(why: ParkEnd): void;
}

export type ParkEnd =
  | { readonly why: 'waited' }
  | { readonly why: 'credential_gone' }
  | { readonly why: 'stopping'; /** When to come back: all at once would be a flood. */ readonly retrySeconds: number };

/** Which bound kept a poll from being parked. */
export type ParkRefusal = 'server' | 'device' | 'stopping';

type ParkBounds = Pick<Bounds, 'parked_polls' | 'parked_polls_per_device'>;

type Parked = { readonly id: string; readonly poll: ParkedPoll };

export class ParkedPolls {
  readonly #presence: PresenceTracker;
  readonly #clock: Clock;
  readonly #deadlines: Deadlines;
  readonly #byId = new Map<string, Parked>();
  readonly #byDevice = new Map<string, Parked[]>();
  readonly #ids = new Map<ParkedPoll, string>();
  /** Devices whose polls are to be offered what may be leased, all together in the next turn: commands that come together leave together. */
  readonly #stirred = new Set<string>();
  readonly #bounds: ParkBounds;
  #turn: NodeJS.Immediate | undefined;
  #lastId = 0;
  #isStopping = false;

  constructor(
    ledger: CommandLedger,
    registry: DeviceRegistry,
    presence: PresenceTracker,
    clock: Clock,
    bounds: ParkBounds = DEFAULT_BOUNDS,
  ) {
    this.#presence = presence;
    this.#clock = clock;
    this.#bounds = bounds;
    this.#deadlines = new Deadlines(
      clock,
      (id) => this.#end(id, { why: 'waited' }),
      // Deadlines of before would be as far off as the clock went back.
      () => this.#endAll(() => ({ why: 'waited' })),
    );
    ledger.on('queued', (deviceId) => this.#stir(deviceId));
    registry.onCredentialGone((deviceId) => {
      for (const { id } of [...(this.#byDevice.get(deviceId) ?? [])]) this.#end(id, { why: 'credential_gone' });
    });
  }

  get size(): number {
    return this.#byId.size;
  }

  /** Parks the poll for `waitMs`, or says which bound keeps it out. */
  park(poll: ParkedPoll, waitMs: number): ParkRefusal | undefined {
    if (this.#isStopping) return 'stopping';
    if (this.#byId.size >= this.#bounds.parked_polls) return 'server';
    const { deviceId } = poll;
    const ofDevice = this.#byDevice.get(deviceId);
    if (ofDevice !== undefined && ofDevice.length >= this.#bounds.parked_polls_per_device) return 'device';
    const parked = { id: String((this.#lastId += 1)), poll };
    this.#byId.set(parked.id, parked);
    this.#ids.set(poll, parked.id);
    if (ofDevice === undefined) this.#byDevice.set(deviceId, [parked]);
    else ofDevice.push(parked);
    this.#deadlines.set(parked.id, this.#clock.now() + waitMs);
    this.#presence.park(deviceId, 1);
    return undefined;
  }

  /** The poll's client went away; one that is not parked any more is none. */
  leave(poll: ParkedPoll): void {
    const id = this.#ids.get(poll);
    if (id !== undefined) this.#letGo(id);
  }

  /** Ends all, and parks none from here on. */
  close(): void {
    this.#isStopping = true;
    clearImmediate(this.#turn);
    const count = this.#byId.size;
    this.#endAll((at) => ({ why: 'stopping', retrySeconds: returnSeconds(at, count) }));
    this.#deadlines.close();
  }

  #stir(deviceId: string): void {
    if (this.#isStopping || !this.#byDevice.has(deviceId)) return;
    this.#stirred.add(deviceId);
    this.#turn ??= setImmediate(() => {
      this.#turn = undefined;
      const stirred = [...this.#stirred];
      this.#stirred.clear();
      for (const id of stirred) this.#offer(id);
    });
  }

  #offer(deviceId: string): void {
    for (const { id, poll } of (this.#byDevice.get(deviceId) ?? []).toReversed()) {
      if (this.#byId.has(id) && poll.offer()) this.#letGo(id);
    }
  }

  #endAll(endOf: (at: number) => ParkEnd): void {
    for (const [at, id] of [...this.#byId.keys()].entries()) this.#end(id, endOf(at));
  }

  #end(id: string, end: ParkEnd): void {
    const poll = this.#letGo(id);
    poll?.end(end);
  }

  #letGo(id: string): ParkedPoll | undefined {
    const parked = this.#byId.get(id);
    if (parked === undefined) return undefined;
    const { poll } = parked;
    this.#byId.delete(id);
    this.#ids.delete(poll);
    this.#deadlines.set(id, undefined);
    const rest = (this.#byDevice.get(poll.deviceId) ?? []).filter((other) => other !== parked);
    if (rest.length === 0) this.#byDevice.delete(poll.deviceId);
    else this.#byDevice.set(poll.deviceId, rest);
    this.#presence.park(poll.deviceId, -1);
    return poll;
  }
}
