import type { Clock } from '../devices/clock.ts';
import { DAY_MS } from '../devices/clock.ts';
import { DEFAULT_BOUNDS } from './bounds.ts';
import type { JsonValue } from '../devices/json.ts';
import { auditLine } from './store/line-protocol.ts';
import type { Addition, Change, State } from './store/state.ts';
import { valuesUnder } from './store/values.ts';

/**
 * Who did what: the newest of it in State, where it is asked for, and all of it in History. An entry is committed together with its deed wherever
 * that makes a commit of its own, so that neither is there without the other.
 *
 * State keeps it in lanes, each with its own bound: a flood of commands or of wrong credentials does not push out who made a key. Ids are epoch
 * microseconds, made unique, and so in the order of time over all lanes.
 */
export const AUDIT_ACTIONS = [
  'device.create',
  'device.change',
  'device.delete',
  'device.provision',
  'token.rotate',
  'token.revoke',
  'command.issue',
  'command.cancel',
  'key.create',
  'key.change',
  'key.revoke',
  'fleet_key.create',
  'fleet_key.revoke',
  'backup.take',
  'backup.restore',
  'login.refused',
] as const;
export type AuditAction = (typeof AUDIT_ACTIONS)[number];

export const ACTOR_KINDS = ['key', 'oidc', 'fleet_key', 'nobody'] as const;
export type Actor = { readonly kind: (typeof ACTOR_KINDS)[number]; readonly id: string; readonly name: string };

export type Deed = {
  readonly actor: Actor;
  readonly action: AuditAction;
  /** Id of what it was done to. */
  readonly target?: string;
  readonly outcome?: 'done' | 'refused';
  /** The address it was asked for from. */
  readonly from?: string | undefined;
  /** Nothing secret. */
  readonly details?: JsonValue;
};

export type AuditEntry = Deed & { readonly id: string; readonly at: number; readonly outcome: 'done' | 'refused' };

export type AuditQuery = {
  /** Id of a key or of an identity provider's subject (`oidc:…`); matches in full. */
  readonly actor?: string | undefined;
  /** An action, or the part of it before the dot. */
  readonly action?: string | undefined;
  readonly target?: string | undefined;
  /** Epoch milliseconds, [from, to). */
  readonly from?: number | undefined;
  readonly to?: number | undefined;
  /** Entries before this id. */
  readonly before?: string | undefined;
  readonly limit: number;
};

const PREFIX = 'audit/';
const LANES = ['command', 'login', 'other'] as const;
type Lane = (typeof LANES)[number];

export const AUDIT_KEPT_DAYS = 90;
/** So many more than the bound, or this share of it, may be there for a while: they go many at a time. */
const SURPLUS_MAX = 2_000;
const SURPLUS_SHARE = 0.1;
/** Entries looked at for one page. */
const SCANNED_MAX = 10_000;
const SWEPT_PER_COMMIT = 500;
const ID_DIGITS = 16;
const MICROS_PER_MS = 1_000;

export class Audit {
  readonly #state: State;
  readonly #clock: Clock;
  readonly #keptMax: number;
  readonly #surplusMax: number;
  readonly #onPushedOut: (lane: Lane, count: number) => void;
  #sinceSweep = 0;
  #lastMicros = 0;
  #sweeping: Promise<void> | undefined;

  /** Of each kind `keptMax` entries are kept; told of those that make room. */
  constructor(
    state: State,
    clock: Clock,
    keptMax: number = DEFAULT_BOUNDS.audit_entries,
    onPushedOut: (lane: Lane, count: number) => void = () => {},
  ) {
    this.#state = state;
    this.#clock = clock;
    this.#keptMax = keptMax;
    this.#surplusMax = Math.min(SURPLUS_MAX, Math.ceil(keptMax * SURPLUS_SHARE));
    this.#onPushedOut = onPushedOut;
  }

  async load(): Promise<void> {
    for (const lane of LANES) {
      for await (const [key] of this.#state.scan(prefixOf(lane), { reverse: true })) {
        this.#lastMicros = Math.max(this.#lastMicros, Number(key.slice(prefixOf(lane).length)));
        break;
      }
    }
  }

  /** The deed as an entry, to be committed with what was done. */
  entryOf({ outcome = 'done', ...deed }: Deed): Addition {
    const at = this.#clock.now();
    this.#lastMicros = Math.max(at * MICROS_PER_MS, this.#lastMicros + 1);
    const id = String(this.#lastMicros).padStart(ID_DIGITS, '0');
    const entry: AuditEntry = { id, at, outcome, ...deed };
    this.#sinceSweep += 1;
    if (this.#sinceSweep >= this.#surplusMax) this.#sweepOnce().catch(() => {});
    const { actor, action, target, from, details } = deed;
    const row = { action, actorKind: actor.kind, outcome, actor: actor.id, actorName: actor.name, target, from, details };
    return {
      changes: [{ put: prefixOf(laneOf(deed.action)) + id, value: JSON.stringify(entry) }],
      entries: [auditLine(row, `${id}000`)],
    };
  }

  /** Writes an entry by itself; in the turn of the event loop in which its deed was committed, both are one commit. */
  async write({ changes, entries }: Addition): Promise<void> {
    await this.#state.commit(changes, entries, 'exempt');
  }

  /** Newest first. `next`: the id to go on before, when there may be more. */
  async list(query: AuditQuery): Promise<{ entries: AuditEntry[]; next: string | undefined }> {
    const { limit, from = 0, to } = query;
    const before = [query.before, to === undefined ? undefined : idAt(to)].filter((id) => id !== undefined).toSorted()[0];
    const entries: AuditEntry[] = [];
    let scanned = 0;
    for await (const entry of this.#newestFirst(lanesOf(query.action), before)) {
      if (entry.at < from) break;
      if (isAsked(entry, query)) entries.push(entry);
      scanned += 1;
      if (entries.length === limit || scanned === SCANNED_MAX) return { entries, next: entry.id };
    }
    return { entries, next: undefined };
  }

  /** Forgets what is over the bounds, with all that is there now. */
  async sweep(): Promise<void> {
    await this.#sweeping;
    await this.#sweepOnce();
  }

  #sweepOnce(): Promise<void> {
    this.#sweeping ??= this.#sweep().finally(() => {
      this.#sweeping = undefined;
    });
    return this.#sweeping;
  }

  async #sweep(): Promise<void> {
    this.#sinceSweep = 0;
    // What was committed in this turn is to be seen by the scans.
    await this.#state.commit([], []);
    const oldest = idAt(Math.max(0, this.#clock.now() - AUDIT_KEPT_DAYS * DAY_MS));
    for (const lane of LANES) {
      const prefix = prefixOf(lane);
      let surplus = -this.#keptMax;
      for await (const _ of this.#state.scan(prefix)) surplus += 1;
      if (surplus > 0) this.#onPushedOut(lane, surplus);
      let dropped: Change[] = [];
      for await (const [key] of this.#state.scan(prefix)) {
        if (surplus <= 0 && key >= prefix + oldest) break;
        surplus -= 1;
        dropped.push({ del: key });
        if (dropped.length < SWEPT_PER_COMMIT) continue;
        await this.#state.commit(dropped, []);
        dropped = [];
      }
      if (dropped.length > 0) await this.#state.commit(dropped, []);
    }
  }

  async *#newestFirst(lanes: readonly Lane[], before: string | undefined): AsyncIterable<AuditEntry> {
    const scans = lanes.map((lane) => {
      const after = before === undefined ? {} : { after: prefixOf(lane) + before };
      return valuesUnder<AuditEntry>(this.#state, prefixOf(lane), { reverse: true, ...after })[Symbol.asyncIterator]();
    });
    try {
      const heads = await Promise.all(scans.map(async (scan) => (await scan.next()).value as [string, AuditEntry] | undefined));
      for (;;) {
        let newest = -1;
        for (const [i, head] of heads.entries()) {
          if (head !== undefined && (newest === -1 || head[1].id > (heads[newest]?.[1].id ?? ''))) newest = i;
        }
        const head = heads[newest];
        if (head === undefined) return;
        yield head[1];
        heads[newest] = (await scans[newest]?.next())?.value as [string, AuditEntry] | undefined;
      }
    } finally {
      for (const scan of scans) await scan.return?.();
    }
  }
}

function isAsked(entry: AuditEntry, { actor, action, target }: AuditQuery): boolean {
  if (actor !== undefined && entry.actor.id !== actor) return false;
  if (target !== undefined && entry.target !== target && deviceOf(entry) !== target) return false;
  return action === undefined || entry.action === action || entry.action.startsWith(`${action}.`);
}

/** The device that a deed to something else was about. */
function deviceOf({ details }: AuditEntry): unknown {
  return typeof details === 'object' && details !== null && !Array.isArray(details) ? details['device'] : undefined;
}

function prefixOf(lane: Lane): string {
  return `${PREFIX}${lane}/`;
}

function laneOf(action: string): Lane {
  if (action.startsWith('command')) return 'command';
  return action.startsWith('login') ? 'login' : 'other';
}

function lanesOf(action: string | undefined): readonly Lane[] {
  return action === undefined ? LANES : [laneOf(action)];
}

/** The first id of this time. */
function idAt(ms: number): string {
  return String(Math.max(0, Math.min(ms * MICROS_PER_MS, 10 ** ID_DIGITS - 1))).padStart(ID_DIGITS, '0');
}
