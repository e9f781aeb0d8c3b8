import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DEFAULT_BOUNDS } from '../broker/bounds.ts';
import { CommandLedger } from '../broker/commands/command-ledger.ts';
import { DeliveryGate } from '../broker/commands/delivery-gate.ts';
import { Dispatcher } from '../broker/commands/dispatcher.ts';
import { ParkedPolls } from '../broker/commands/parked-polls.ts';
import { CommandPull } from '../broker/commands/pull.ts';
import { QueueChanges } from '../broker/commands/queue-changes.ts';
import { SleepAdvisor } from '../broker/commands/sleep-advisor.ts';
import { LiveEvents } from '../broker/live-events.ts';
import { DeviceRegistry } from '../broker/registry/device-registry.ts';
import { PresenceTracker } from '../broker/registry/presence-tracker.ts';
import { SecretDigests } from '../broker/registry/secrets.ts';
import { LevelHistory } from '../broker/store/level/level-history.ts';
import { LevelState } from '../broker/store/level/level-state.ts';
import { LatestValues } from '../broker/telemetry/latest-values.ts';
import { TimeMark } from '../broker/time-mark.ts';
import type { Command } from '../devices/command.ts';
import type { Device } from '../devices/device.ts';
import { uuidV7Source } from '../devices/uuid-v7.ts';
import { TestClock } from './live-server.ts';

/** What pulling stands on, without a server: a data folder of its own, and a clock that stands still until it is moved. */
export class PullStack {
  readonly clock: TestClock;
  readonly ledger: CommandLedger;
  readonly registry: DeviceRegistry;
  readonly presence: PresenceTracker;
  readonly dispatcher: Dispatcher;
  readonly pull: CommandPull;
  readonly parked: ParkedPolls;
  readonly #newId: () => string;
  readonly #close: () => Promise<void>;

  private constructor(
    parts: Pick<PullStack, 'clock' | 'ledger' | 'registry' | 'presence' | 'dispatcher' | 'pull' | 'parked'>,
    close: () => Promise<void>,
  ) {
    this.clock = parts.clock;
    this.ledger = parts.ledger;
    this.registry = parts.registry;
    this.presence = parts.presence;
    this.dispatcher = parts.dispatcher;
    this.pull = parts.pull;
    this.parked = parts.parked;
    this.#newId = uuidV7Source(parts.clock);
    this.#close = close;
  }

  static async open(options: { pollsMax?: number } = {}): Promise<PullStack> {
    const clock = new TestClock(1_800_000_000_000);
    const folder = await mkdtemp(join(tmpdir(), 'downlink-pull-'));
    const state = await LevelState.open({ folder, journalBytesMax: 1e9, clock });
    const events = new LiveEvents('x', clock);
    const mark = await TimeMark.load(state);
    const digests = await SecretDigests.open(state);
    const registry = new DeviceRegistry(state, digests, clock);
    const presence = new PresenceTracker(registry, state, events, clock);
    const ledger = new CommandLedger(state, events, clock, mark);
    const history = await LevelHistory.open(join(folder, 'history'));
    const latest = new LatestValues(history, { caughtUp: async () => true });
    const gate = new DeliveryGate(ledger, latest, clock);
    const dispatcher = new Dispatcher(ledger, gate, registry, clock);
    const changes = new QueueChanges(ledger, registry, mark.clockFrom(clock));
    const advisor = new SleepAdvisor(ledger, registry, presence, { pressure: 0 }, clock);
    const pull = new CommandPull(ledger, gate, dispatcher, presence, changes, advisor, (text) => digests.seal(text));
    const parked = new ParkedPolls(ledger, registry, presence, clock, {
      ...DEFAULT_BOUNDS,
      ...(options.pollsMax !== undefined && { parked_polls: options.pollsMax }),
    });
    return new PullStack({ clock, ledger, registry, presence, dispatcher, pull, parked }, async () => {
      dispatcher.stop();
      parked.close();
      await presence.close();
      await ledger.close();
      gate.close();
      await history.close();
      await state.close();
      await rm(folder, { recursive: true, force: true });
    });
  }

  async device(id: string, more: { leaseSeconds?: number; pushBytes?: number } = {}): Promise<Device> {
    return (await this.registry.create({ id, limits: more })).device;
  }

  /** Issues a command, durably. */
  async issue(deviceId: string, more: Partial<Command> = {}): Promise<Command> {
    const now = this.clock.now();
    const command: Command = {
      id: this.#newId(),
      deviceId,
      name: 'start',
      params: {},
      priority: 'normal',
      confirm: 'result',
      expiresAt: now + 86_400_000,
      reportTimeoutSeconds: 86_400,
      maxAttempts: 1_000,
      queuedAt: now,
      historyNs: this.ledger.nextNs(now),
      state: 'queued',
      attempts: 0,
      wakes: 0,
      ...more,
    };
    await this.ledger.add(command, []);
    return command;
  }

  close(): Promise<void> {
    return this.#close();
  }
}
