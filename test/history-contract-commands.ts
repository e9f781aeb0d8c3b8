import { describe, expect, test } from 'vitest';
import { type History } from '../broker/store/history.ts';
import { auditLine, commandEventLine, commandLine, telemetryLine } from '../broker/store/line-protocol.ts';
import type { Command } from '../devices/command.ts';
import { ALWAYS, append, commandOf, newDevice, newId, OpenHistory, T, WEEK, type HistoryHarness } from './history-fixtures.ts';

/** What History promises of commands and of a store, for every adapter. */
export function commandsContract(name: string, harness: HistoryHarness): void {
  describe(`${name}: commands and the store`, () => {
    const store = new OpenHistory(harness);

    test('rows of the audit log are taken, whatever is in their texts', async () => {
      const row = {
        action: 'key.create',
        actorKind: 'key',
        outcome: 'done',
        actor: 'a"b\\c,d e=f',
        actorName: 'new\nline, "x"',
        target: '',
        from: '::1',
        details: { text: '"\\\n,= ', n: 1 },
      };
      const device = newDevice();
      const lines = [auditLine(row, String(T)), auditLine({ ...row, details: undefined }, String(T + 1n))];
      expect(await append(store.history, ...lines, telemetryLine(device, { x: 1 }, String(T)))).toEqual([]);
      expect(await store.valuesOf(device, 'x')).toEqual([1]);
    });

    describe('commands', () => {
      const list = (changes: Partial<Parameters<History['commands']>[0]>): Promise<Command[]> =>
        store.history.commands({ ...ALWAYS, limit: 1_000, ...changes });

      test('come back with all that they carry', async () => {
        const device = newDevice();
        const bare = commandOf(device);
        const full = commandOf(device, {
          name: 'set-point',
          historyNs: String(T + 1n),
          params: { celsius: 21.5, note: 'a "b" \\ \n ü', list: [null, true, { deep: [] }], empty: {} },
          priority: 'urgent',
          key: 'set point, "x"',
          confirm: 'delivery',
          notBefore: 1_700_000_000_001,
          expiresAt: 1_700_000_000_002,
          expiresWakes: 3,
          condition: { metric: 'mode', op: '!=', value: 'a "b" \\ \n', maxAgeSeconds: 60 },
          supersedes: [newId(), newId()],
          state: 'running',
          attempts: 2,
          wakes: 1,
          transport: 'mqtt',
          sentAt: 1_700_000_000_003,
          deliveredAt: 1_700_000_000_004,
          startedAt: 1_700_000_000_005,
          finishedAt: 1_700_000_000_006,
          progress: 12.5,
          message: 'half \\ way\n"there"',
          result: null,
        });
        const binary = commandOf(device, {
          historyNs: String(T + 2n),
          payload: Buffer.from([0, 255, 10, 34, 92]).toString('base64'),
          contentType: 'application/octet-stream; x="y"',
          state: 'superseded',
          supersededBy: bare.id,
          error: 'a newer one came',
          condition: { metric: 'ok', op: '=', value: true },
          deferral: { reason: 'larger_than_max_bytes', at: 1_700_000_000_007, bytes: 900, bytesMax: 512 },
        });
        const late = commandOf(device, {
          historyNs: String(T + 3n),
          params: null,
          state: 'failed',
          late: true,
          result: [0, 'no'],
        });
        const issued = [bare, full, binary, late];
        expect(await append(store.history, ...issued.map(commandLine))).toEqual([]);
        expect(await list({ deviceId: device })).toEqual(issued.toReversed());
        for (const command of issued) expect(await store.history.command(command.id)).toEqual(command);
      });

      test('are as they last were', async () => {
        const device = newDevice();
        const queued = commandOf(device, { params: { a: 1 } });
        const sent = { ...queued, state: 'sent', attempts: 1, transport: 'http', sentAt: 1_700_000_000_100 } as const;
        const done = {
          ...sent,
          state: 'succeeded',
          deliveredAt: 1_700_000_000_200,
          finishedAt: 1_700_000_000_300,
          result: { ok: true },
        } as const;
        await append(store.history, commandLine(queued));
        await append(store.history, commandLine(sent), commandLine(done));
        expect(await list({ deviceId: device })).toEqual([done]);
        expect(await list({ deviceId: device, states: ['queued', 'sent'] })).toEqual([]);
        expect(await store.history.command(queued.id)).toEqual(done);
      });

      test('keep the fields that a later row of theirs does not have', async () => {
        const device = newDevice();
        const command = commandOf(device, { params: { a: 'b "c"' } });
        await append(store.history, commandLine(command));
        const step = (fields: string): string => `command,device=${device},name=${command.name} ${fields} ${command.historyNs}`;
        await append(store.history, step('state="sent"'), step('sent_ms=5i'));
        expect(await store.history.command(command.id)).toEqual({ ...command, state: 'sent', sentAt: 5 });
        expect(await list({ deviceId: device, states: ['sent'] })).toEqual([{ ...command, state: 'sent', sentAt: 5 }]);
      });

      test("lose what the device's late word took back", async () => {
        const device = newDevice();
        const expired = commandOf(device, {
          state: 'expired',
          error: 'not delivered in time',
          supersededBy: newId(),
          deferral: { reason: 'over_limit', at: 1_700_000_000_007 },
        });
        const { error: _, supersededBy: __, deferral: ___, ...rest } = expired;
        const told = { ...rest, state: 'succeeded', late: true, deliveredAt: 1_700_000_000_400 } as const;
        await append(store.history, commandLine(expired));
        expect(await list({ deviceId: device })).toEqual([expired]);
        await append(store.history, commandLine(told));
        expect(await list({ deviceId: device })).toEqual([told]);
      });

      test('are found by device, state and time, newest first', async () => {
        const [a, b] = [newDevice(), newDevice()];
        const at = (deviceId: string, i: number, state: Command['state']): Command =>
          commandOf(deviceId, { state, historyNs: String(-WEEK + BigInt(i)), name: `n${i % 3}` });
        const issued = [at(a, 0, 'queued'), at(b, 1, 'succeeded'), at(a, 2, 'failed'), at(b, 3, 'queued'), at(a, 4, 'succeeded')];
        await append(store.history, ...issued.map(commandLine));
        const idsOf = async (query: Parameters<typeof list>[0]): Promise<number[]> =>
          (await list(query)).map(({ id }) => issued.findIndex((command) => command.id === id));
        const range = { fromNs: -WEEK, toNs: -WEEK + 5n };
        expect(await idsOf(range)).toEqual([4, 3, 2, 1, 0]);
        expect(await idsOf({ ...range, limit: 2 })).toEqual([4, 3]);
        expect(await idsOf({ deviceId: a })).toEqual([4, 2, 0]);
        expect(await idsOf({ deviceId: a, states: ['queued', 'failed'] })).toEqual([2, 0]);
        expect(await idsOf({ deviceId: a, states: ['queued', 'failed'], limit: 1 })).toEqual([2]);
        expect(await idsOf({ ...range, states: ['succeeded'] })).toEqual([4, 1]);
        expect(await idsOf({ deviceId: b, fromNs: -WEEK + 1n, toNs: -WEEK + 3n })).toEqual([1]);
        expect(await idsOf({ deviceId: a, states: [] })).toEqual([]);
        expect(await idsOf({ deviceId: newDevice() })).toEqual([]);
      });

      test('are found among thousands, page by page', async () => {
        const device = newDevice();
        const issued = Array.from({ length: 2_345 }, (_, i) =>
          commandOf(device, { historyNs: String(T + BigInt(i)), params: { i }, state: i % 5 === 0 ? 'failed' : 'succeeded' }),
        );
        expect(await append(store.history, ...issued.map(commandLine))).toEqual([]);
        const found: Command[] = [];
        for (let toNs = ALWAYS.toNs; ; toNs = BigInt(found.at(-1)?.historyNs ?? 0)) {
          const page = await list({ deviceId: device, toNs, limit: 1_000 });
          found.push(...page);
          if (page.length < 1_000) break;
        }
        expect(found).toEqual(issued.toReversed());
        expect((await list({ deviceId: device, states: ['failed'] })).length).toBe(469);
        expect(await store.history.command(issued[1_234]?.id ?? '')).toEqual(issued[1_234]);
      });

      test('of all devices are found without one, also where many have one time', async () => {
        const at = T + 7n * WEEK;
        const ids = Array.from({ length: 20 }, () => newDevice());
        await append(store.history, ...ids.map((id) => commandLine(commandOf(id, { historyNs: String(at) }))));
        const found = await store.history.commands({ states: ['queued'], fromNs: at, toNs: at + 1n, limit: 100 });
        expect(found.map(({ deviceId }) => deviceId).toSorted()).toEqual(ids.toSorted());
      });

      test('and readings tell which devices there are, in order, up to the limit', async () => {
        const [commanded, read] = [newDevice(), newDevice()];
        await append(store.history, commandLine(commandOf(commanded)), telemetryLine(read, { x: 1 }, String(T)));
        const devices = await store.history.devices(10_000);
        expect(devices).toEqual(expect.arrayContaining([commanded, read]));
        expect(devices).toEqual([...new Set(devices)].toSorted());
        expect(await store.history.devices(2)).toHaveLength(2);
      });

      test('that never were are undefined', async () => {
        expect(await store.history.command(newId())).toBeUndefined();
        expect(await store.history.command('not an id')).toBeUndefined();
        expect(await store.history.command("' OR 1=1 --")).toBeUndefined();
      });

      test('have their events stored beside them', async () => {
        const device = newDevice();
        const command = commandOf(device);
        const lines = [commandLine(command), commandEventLine(command, { from: 'none', timeNs: String(T) })];
        const sent = { ...command, state: 'sent', attempts: 1 } as const;
        lines.push(commandLine(sent), commandEventLine(sent, { from: 'queued', transport: 'mqtt', timeNs: String(T + 1n) }));
        expect(await append(store.history, ...lines)).toEqual([]);
        expect(await list({ deviceId: device })).toEqual([sent]);
      });
    });

    describe('append', () => {
      test('refuses rows that cannot be read alone, with a reason, and takes the others', async () => {
        const device = newDevice();
        const good = [telemetryLine(device, { x: 1 }, String(T)), telemetryLine(device, { x: 2, s: 'a\nb' }, String(T + 1n))];
        const bad = [
          `telemetry,device=${device} x= ${T}`,
          `telemetry,device=${device} x=1 noon`,
          `telemetry,device=${device} x=1 99999999999999999999`,
        ];
        const refused = await append(store.history, bad[0] ?? '', good[0] ?? '', bad[1] ?? '', good[1] ?? '', bad[2] ?? '');
        expect(refused.map((row) => row.line)).toEqual(bad);
        for (const { reason } of refused) expect(reason).not.toBe('');
        expect(await store.valuesOf(device, 'x')).toEqual([1, 2]);
        expect(await store.valuesOf(device, 's')).toEqual(['a\nb']);
      });

      test('takes nothing, and 2 MB at once', async () => {
        expect(await store.history.append(Buffer.alloc(0))).toEqual([]);
        const device = newDevice();
        const text = 'é'.repeat(400);
        const lines = Array.from({ length: 2_400 }, (_, i) => telemetryLine(device, { text, i }, String(T + BigInt(i))));
        expect(await append(store.history, ...lines)).toEqual([]);
        expect(await store.windows(device, 'text', { aggregates: ['count', 'last'], fromNs: T })).toEqual([
          { timeNs: T, count: 2_400, last: text },
        ]);
      });

      test('may be called while one is under way', async () => {
        const device = newDevice();
        const command = commandOf(device);
        const lines = (from: number): string[] =>
          Array.from({ length: 500 }, (_, i) => telemetryLine(device, { x: from + i }, String(T + BigInt(from + i))));
        await Promise.all([
          append(store.history, ...lines(0), commandLine(command)),
          append(store.history, ...lines(500)),
          append(store.history, ...lines(1_000)),
        ]);
        expect(await store.windows(device, 'x', { aggregates: ['count'], fromNs: T })).toEqual([{ timeNs: T, count: 1_500 }]);
      });
    });

    describe('opening and closing', () => {
      test('what was appended is there when opened again; closed twice is closed; a closed one says so', async () => {
        const device = newDevice();
        const command = commandOf(device, { params: ['x'] });
        await store.put(device, T, { x: 1, s: 'y' });
        await append(store.history, commandLine(command));
        await store.history.check();
        await store.history.close();
        await store.history.close();
        const unavailable = expect.objectContaining({ code: 'history_unavailable' });
        await expect(append(store.history, telemetryLine(device, { x: 2 }, String(T)))).rejects.toEqual(unavailable);
        await expect(store.readings(device, 'x')).rejects.toEqual(unavailable);
        await expect(store.history.check()).rejects.toEqual(unavailable);
        store.history = await harness.open();
        await store.history.check();
        expect(await store.readings(device, 'x')).toEqual([{ timeNs: T, value: 1 }]);
        expect(await store.history.command(command.id)).toEqual(command);
      });
    });
  });
}
