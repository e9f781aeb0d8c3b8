import assert from 'node:assert';
import { mkdtemp, rm } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { SESSION_BOUNDS, type SessionBounds } from '../broker/mqtt/sessions/session-bounds.ts';
import { SessionStore } from '../broker/mqtt/sessions/session-store.ts';
import { LevelState } from '../broker/store/level/level-state.ts';
import { TestClock } from './live-server.ts';

/** aedes-persistence's own suite, and what it does not ask: a restart, and bounds. */

type Context = { plan(count: number): void; diagnostic(): void; readonly assert: object };
type Suite = (options: {
  test: (name: string, run: (t: Context) => Promise<void>) => void;
  persistence: () => Promise<SessionStore>;
  testAsync: boolean;
}) => void;
// It has no types.
const abstractSuite = createRequire(import.meta.url)('aedes-persistence/abstract.js') as Suite;

const NOW = 1_800_000_000_000;
const DAY_MS = 24 * 3_600_000;
const folders: string[] = [];
const states: LevelState[] = [];
const clock = new TestClock(NOW);

afterAll(async () => {
  for (const state of states) await state.close();
  for (const folder of folders) await rm(folder, { recursive: true });
});

async function openState(folder?: string): Promise<{ state: LevelState; folder: string }> {
  const used = folder ?? (await mkdtemp(join(tmpdir(), 'downlink-sessions-')));
  if (folder === undefined) folders.push(used);
  const state = await LevelState.open({ folder: used, journalBytesMax: 1_000_000, clock });
  states.push(state);
  return { state, folder: used };
}

describe("aedes-persistence's suite", () => {
  const run = (name: string, body: (t: Context) => Promise<void>): void => {
    // oxlint-disable-next-line vitest/valid-title
    test(name, async () => {
      let planned: number | undefined;
      let made = 0;
      const counted = new Proxy(assert, {
        get: (target, key) => {
          const check = Reflect.get(target, key) as (...values: unknown[]) => void;
          return (...values: unknown[]): void => {
            made += 1;
            check(...values);
          };
        },
      });
      await body({ plan: (count) => (planned = count), diagnostic: () => {}, assert: counted });
      if (planned !== undefined) expect(made).toBe(planned);
    });
  };
  const persistence = async (): Promise<SessionStore> => {
    const store = new SessionStore({ state: (await openState()).state, clock });
    await store.load();
    return store;
  };
  abstractSuite({ test: run, persistence, testAsync: true });
});

class Restartable {
  store: SessionStore;
  readonly dropped: string[] = [];
  readonly #folder: string;
  readonly #bounds: SessionBounds;
  #state: LevelState;

  private constructor(state: LevelState, folder: string, bounds: SessionBounds) {
    this.#state = state;
    this.#folder = folder;
    this.#bounds = bounds;
    this.store = this.#open();
  }

  static async start(bounds: Partial<SessionBounds> = {}): Promise<Restartable> {
    const { state, folder } = await openState();
    const restartable = new Restartable(state, folder, { ...SESSION_BOUNDS, ...bounds });
    await restartable.store.load();
    return restartable;
  }

  async restart(): Promise<SessionStore> {
    await this.#state.close();
    this.#state = (await openState(this.#folder)).state;
    this.store = this.#open();
    await this.store.load();
    return this.store;
  }

  #open(): SessionStore {
    return new SessionStore({
      state: this.#state,
      clock,
      bounds: this.#bounds,
      onReached: (bound) => this.dropped.push(bound),
    });
  }
}

const client = { id: 'key/programme ~é🚀' };
const message = (topic: string, payload: string): { topic: string; payload: Buffer; qos: number; retain: boolean } => ({
  topic,
  payload: Buffer.from(payload),
  qos: 1,
  retain: true,
});

describe('after a restart', () => {
  test('subscriptions of every QoS are those there were, and nothing of a clean session is left', async () => {
    const server = await Restartable.start();
    await server.store.keep(client.id);
    await server.store.addSubscriptions(client, [
      { topic: 'a/#', qos: 2 },
      { topic: 'a/~', qos: 0 },
      { topic: 'gone', qos: 1 },
    ]);
    await server.store.removeSubscriptions(client, ['gone']);
    await server.store.begin('clean');
    await server.store.addSubscriptions({ id: 'clean' }, [{ topic: 'x', qos: 1 }]);
    server.store.queues.enqueue('clean', message('x', '1'));
    const store = await server.restart();
    expect(store.ids()).toEqual([client.id]);
    expect(await store.subscriptionsByClient(client)).toEqual([
      { topic: 'a/#', qos: 2 },
      { topic: 'a/~', qos: 0 },
    ]);
    expect(store.subscriptions.matching('x')).toEqual([]);
    expect(store.queues.messages).toBe(0);
  });

  test('a session without subscriptions is one as well, until it is forgotten', async () => {
    const server = await Restartable.start();
    await server.store.keep(client.id);
    expect((await server.restart()).has(client.id)).toBe(true);
    await server.store.forget(client.id);
    expect((await server.restart()).has(client.id)).toBe(false);
  });

  test('queues are in their order, with the message ids they had, and what was sent is known', async () => {
    const server = await Restartable.start();
    await server.store.keep(client.id);
    for (let n = 1; n <= 30; n += 1) {
      const queued = server.store.queues.enqueue(client.id, message('t', String(n)), { withMessageId: true });
      await queued?.durable;
      if (queued !== undefined && n <= 12) server.store.queues.sent(client.id, queued.entry);
    }
    server.store.queues.clear(client.id, 3);
    await server.store.outgoingUpdate(client, { cmd: 'pubrel', messageId: 5 });
    const { queues } = await server.restart();
    const entries = [...queues.of(client.id)];
    const wanted = Array.from({ length: 30 }, (_, i) => i + 1).filter((n) => n !== 3);
    expect(entries.map(({ packet }) => packet.messageId)).toEqual(wanted);
    expect(entries.filter(({ packet }) => packet.cmd === 'pubrel').map(({ packet }) => packet.messageId)).toEqual([5]);
    expect(entries.filter((entry) => queues.wasSent(client.id, entry)).length).toBe(11);
    expect(entries.at(-1)?.packet).toMatchObject({ topic: 't', payload: Buffer.from('30'), qos: 1 });
    expect(queues.enqueue(client.id, message('t', '31'), { withMessageId: true })?.entry.packet.messageId).toBe(31);
  });

  test('retained messages, what is half received and wills are there', async () => {
    const server = await Restartable.start();
    const topics = ['a', '~', 'é/ü', '/', 'a/b'];
    for (const topic of topics) await server.store.storeRetained(message(topic, topic));
    await server.store.storeRetained(message('a', ''));
    await server.store.incomingStorePacket(client, { topic: 'q', qos: 2, messageId: 65_535 });
    await server.store.putWill(client, message('will', 'gone'));
    const store = await server.restart();
    expect(store.retained.topics('#').toSorted()).toEqual(topics.slice(1).toSorted());
    expect(store.retained.get('é/ü')?.payload).toEqual(Buffer.from('é/ü'));
    expect(await store.incomingGetPacket(client, { messageId: 65_535 })).toMatchObject({ topic: 'q', messageId: 65_535 });
    expect(await store.getWill(client)).toMatchObject({ topic: 'will', payload: Buffer.from('gone'), clientId: client.id });
    await store.incomingDelPacket(client, { messageId: 65_535 });
    await store.delWill(client);
    const again = await server.restart();
    await expect(again.incomingGetPacket(client, { messageId: 65_535 })).rejects.toThrow('no such packet');
    expect(again.wills.all()).toEqual([]);
  });
});

describe('a bound', () => {
  test('of a queue drops the oldest message that was not sent, on disk too', async () => {
    const server = await Restartable.start({ queuedMessagesMax: 3 });
    await server.store.keep(client.id);
    for (const text of ['1', '2', '3', '4', '5']) {
      const queued = server.store.queues.enqueue(client.id, message('t', text), { withMessageId: true });
      await queued?.durable;
      if (queued !== undefined && text === '1') server.store.queues.sent(client.id, queued.entry);
    }
    const { queues } = await server.restart();
    expect([...queues.of(client.id)].map(({ packet }) => String(packet.payload))).toEqual(['1', '4', '5']);
    expect(server.dropped).toEqual(['queuedMessagesMax', 'queuedMessagesMax']);
    for (const entry of queues.of(client.id)) queues.sent(client.id, entry);
    expect(queues.enqueue(client.id, message('t', '6'))).toBeUndefined();
  });

  test('of all queues counts octets, and gives them back', async () => {
    const { store, dropped } = await Restartable.start({ queuedBytesMax: 100 });
    store.queues.enqueue('one', message('t', 'x'.repeat(80)));
    expect(store.queues.enqueue('two', message('t', 'y'.repeat(80)))).toBeUndefined();
    await store.forget('one');
    expect(store.queues.bytes).toBe(0);
    expect(store.queues.enqueue('two', message('t', 'y'.repeat(80)))).toBeDefined();
    expect(dropped).toEqual(['queuedBytesMax']);
  });

  test('of retained messages keeps no further topic, and never an old message in place of a newer one', async () => {
    const server = await Restartable.start({ retainedMessagesMax: 2, retainedBytesMax: 50 });
    for (const topic of ['a', 'b', 'c']) await server.store.storeRetained(message(topic, '1'));
    await server.store.storeRetained(message('a', '2'));
    expect(server.store.retained.topics('#').toSorted()).toEqual(['a', 'b']);
    await server.store.storeRetained(message('a', 'x'.repeat(60)));
    expect(server.dropped).toEqual(['retainedMessagesMax', 'retainedBytesMax']);
    expect((await server.restart()).retained.topics('#')).toEqual(['b']);
  });

  test('of sessions is told before there is one more; who was not seen for long makes room', async () => {
    const server = await Restartable.start({ sessionsMax: 2, sessionUnseenMsMax: 7 * DAY_MS });
    await server.store.keep('one');
    await server.store.keep('two');
    await server.store.keep('online');
    expect([server.store.hasRoomFor('one'), server.store.hasRoomFor('three')]).toEqual([true, false]);
    clock.advance(4 * DAY_MS);
    server.store.seen('two');
    clock.advance(4 * DAY_MS);
    await server.store.sweep((id) => id === 'online');
    expect((await server.restart()).ids().toSorted()).toEqual(['online', 'two']);
    expect(server.dropped).toEqual(['sessionsMax', 'sessionUnseenMsMax']);
  });

  test('of absence counts from when a session was connected last, also where the server did not live to see it go', async () => {
    const server = await Restartable.start({ sessionUnseenMsMax: 7 * DAY_MS });
    await server.store.keep('connected');
    clock.advance(30 * DAY_MS);
    await server.store.sweep(() => true);
    await server.store.keep('another');
    const store = await server.restart();
    clock.advance(6 * DAY_MS);
    await store.sweep(() => false);
    expect(store.has('connected')).toBe(true);
    clock.advance(2 * DAY_MS);
    await store.sweep(() => false);
    expect(store.has('connected')).toBe(false);
  });
});
