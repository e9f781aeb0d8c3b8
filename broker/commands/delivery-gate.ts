import { setTimeout as wait } from 'node:timers/promises';
import type { Clock } from '../../devices/clock.ts';
import type { Command } from '../../devices/command.ts';
import { isLeasable } from '../../devices/command-machine.ts';
import { holds, whatWasFound, type LatestReading } from '../../devices/condition.ts';
import type { Point } from '../store/history.ts';
import type { LatestValues } from '../telemetry/latest-values.ts';
import type { CommandLedger } from './command-ledger.ts';

/**
 * What may be handed over, whatever the transport. A transport asks what is on `offer`, chooses, and has its choice `admit`ted in the same turn; where
 * something was refused it chooses anew:
 *
 *   do chosen = choose(gate.offer(id)); while (!gate.admit(chosen));
 *
 * A command with a condition is looked at when it is about to go out, and not before. It is not on offer while the device's latest readings are
 * not at hand: those of before this run are fetched from History, again and again while that cannot be asked, and then the command is queued
 * anew. It never goes out unchecked.
 */
const FETCHERS_MAX = 4;
const RETRY_MS = 2_000;
const NS_PER_MS = 1_000_000n;

export class DeliveryGate {
  readonly #ledger: CommandLedger;
  readonly #latest: LatestValues;
  readonly #clock: Clock;
  /** Devices whose readings are to be fetched. */
  readonly #wanted = new Set<string>();
  readonly #stop = new AbortController();
  #fetchers = 0;

  constructor(ledger: CommandLedger, latest: LatestValues, clock: Clock) {
    this.#ledger = ledger;
    this.#latest = latest;
    this.#clock = clock;
    ledger.on('stepped', ({ deviceId, condition }, from) => {
      if (from === 'none' && condition !== undefined) this.#want(deviceId);
    });
  }

  /** Has the readings ready that open commands will be held against, so that a device which comes need not wait for them. */
  start(): void {
    for (const { deviceId, condition } of this.#ledger.book.all()) if (condition !== undefined) this.#want(deviceId);
  }

  /** What a device may be handed over now, in the order of delivery; to be gone through before anything is done with it. */
  *offer(deviceId: string): Generator<Command, void> {
    const now = this.#clock.now();
    for (const command of this.#ledger.book.of(deviceId)) if (this.#isOnOffer(command, now)) yield command;
  }

  /** The first `max` of the offer. */
  firstOf(deviceId: string, max: number): Command[] {
    const now = this.#clock.now();
    const first: Command[] = [];
    for (const command of this.#ledger.book.of(deviceId)) {
      if (first.length >= max) break;
      if (this.#isOnOffer(command, now)) first.push(command);
    }
    return first;
  }

  /** True when all of these may go. Those whose condition does not hold are cancelled. */
  admit(chosen: readonly Command[]): boolean {
    let mayAllGo = true;
    for (const { id, deviceId, condition } of chosen) {
      if (condition === undefined) continue;
      const now = this.#clock.now();
      const latest = readingOf(this.#latest.newest(deviceId, condition.metric));
      if (holds(condition, latest, now)) continue;
      mayAllGo = false;
      this.#ledger.tryStep(id, { type: 'fail_condition', message: whatWasFound(condition, latest, now) });
    }
    return mayAllGo;
  }

  close(): void {
    this.#stop.abort();
  }

  #isOnOffer(command: Command, now: number): boolean {
    if (!isLeasable(command, now)) return false;
    if (command.condition === undefined || this.#latest.isComplete(command.deviceId)) return true;
    this.#want(command.deviceId);
    return false;
  }

  #want(deviceId: string): void {
    if (this.#latest.isComplete(deviceId) || this.#stop.signal.aborted) return;
    this.#wanted.add(deviceId);
    if (this.#fetchers >= FETCHERS_MAX) return;
    this.#fetchers += 1;
    void this.#fetchWanted().finally(() => (this.#fetchers -= 1));
  }

  async #fetchWanted(): Promise<void> {
    for (;;) {
      const [deviceId] = this.#wanted;
      if (deviceId === undefined || this.#stop.signal.aborted) return;
      this.#wanted.delete(deviceId);
      await this.#latest.of(deviceId).catch(() => {});
      if (this.#stop.signal.aborted) return;
      if (this.#latest.isComplete(deviceId)) {
        this.#ledger.emit('queued', deviceId);
      } else if (this.#defer(deviceId)) {
        this.#wanted.add(deviceId);
        await wait(RETRY_MS, undefined, { signal: this.#stop.signal, ref: false }).catch(() => {});
      }
    }
  }

  /** Tells of each command that waits for a reading why it does. True when there is one. */
  #defer(deviceId: string): boolean {
    const waiting = this.#ledger.book
      .of(deviceId)
      .filter(({ condition, state }) => condition !== undefined && state === 'queued');
    for (const { id } of waiting) this.#ledger.tryStep(id, { type: 'defer', reason: 'condition_unknown' });
    return waiting.length > 0;
  }
}

function readingOf(point: Point | undefined): LatestReading | undefined {
  return point && { value: point.value, at: Number(point.timeNs / NS_PER_MS) };
}
