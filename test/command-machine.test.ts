import { describe, expect, test } from 'vitest';
import { COMMAND_STATES, isEnded, type Command, type CommandState } from '../devices/command.ts';
import { dueEvent, isLeasable, nextDeadlineAt, transition, type CommandEvent } from '../devices/command-machine.ts';

const NOW = 1_800_000_000_000;

const queued: Command = {
  id: '0192f0c1-0000-7000-8000-000000000001',
  deviceId: 'pump-1',
  name: 'start',
  params: {},
  priority: 'normal',
  confirm: 'result',
  expiresAt: NOW + 60_000,
  reportTimeoutSeconds: 300,
  maxAttempts: 3,
  queuedAt: NOW - 1_000,
  historyNs: `${NOW - 1_000}000000`,
  state: 'queued',
  attempts: 0,
  wakes: 0,
};
const sent: Command = {
  ...queued,
  state: 'sent',
  attempts: 1,
  transport: 'mqtt',
  handover: 7,
  sentAt: NOW - 500,
  leaseUntil: NOW + 30_000,
};
const { leaseUntil: _, ...handed } = sent;
const delivered: Command = { ...handed, state: 'delivered', deliveredAt: NOW - 400, reportBy: NOW + 299_600 };
const running: Command = { ...delivered, state: 'running', startedAt: NOW - 300, progress: 10 };

function ended(state: CommandState): Command {
  const never: CommandState[] = ['expired', 'superseded', 'undeliverable', 'cancelled'];
  const { reportBy: __, ...had } = delivered;
  return { ...(never.includes(state) ? { ...queued, attempts: 3 } : had), state, finishedAt: NOW - 100 };
}

const AS_IT_STANDS: Record<CommandState, Command> = {
  queued,
  sent,
  delivered,
  running,
  succeeded: ended('succeeded'),
  failed: ended('failed'),
  rejected: ended('rejected'),
  expired: ended('expired'),
  timed_out: ended('timed_out'),
  cancelled: ended('cancelled'),
  superseded: ended('superseded'),
  undeliverable: ended('undeliverable'),
};

const EVENTS: Record<string, CommandEvent> = {
  lease: { type: 'lease', transport: 'http', leaseMs: 30_000, handover: 8 },
  lapse: { type: 'lapse' },
  release: { type: 'release' },
  defer: { type: 'defer', reason: 'over_limit' },
  'fail condition': { type: 'fail_condition', message: 'level is 3' },
  confirm: { type: 'confirm', transport: 'mqtt' },
  'report running': { type: 'report', report: { state: 'running', progress: 50 }, transport: 'mqtt' },
  'report succeeded': { type: 'report', report: { state: 'succeeded', result: { ok: true } }, transport: 'mqtt' },
  'report failed': { type: 'report', report: { state: 'failed', message: 'stuck' }, transport: 'http' },
  'report rejected': { type: 'report', report: { state: 'rejected' }, transport: 'http' },
  wake: { type: 'wake' },
  expire: { type: 'expire' },
  timeout: { type: 'timeout' },
  cancel: { type: 'cancel', force: false },
  'cancel by force': { type: 'cancel', force: true },
  supersede: { type: 'supersede', by: 'newer' },
  'take place': { type: 'take_place', of: 'older' },
};

// What each event makes of each state: a state, `=` for the very same object, `!` for command_finished, `d!` for command_delivered, `x` for
// not_leasable. Columns in the order of COMMAND_STATES.
const TABLE: Record<string, string> = {
  //                   queued     sent       delivered  running    succ fail rej  expired   timed_out canc supe undeliverable
  lease: '             sent       x          x          x          x    x    x    x         x         x    x    x',
  lapse: '             =          queued     =          =          =    =    =    =         =         =    =    =',
  release: '           =          queued     =          =          =    =    =    =         =         =    =    =',
  defer: '             queued     =          =          =          =    =    =    =         =         =    =    =',
  'fail condition': '  cancelled  =          =          =          =    =    =    =         =         =    =    =',
  confirm: '           delivered  delivered  =          =          =    =    =    !         =         !    !    !',
  'report running': '  running    running    running    running    =    =    =    !         !         !    !    !',
  'report succeeded': 'succeeded  succeeded  succeeded  succeeded  =    !    !    succeeded succeeded !    !    succeeded',
  'report failed': '   failed     failed     failed     failed     !    =    !    failed    failed    !    !    failed',
  'report rejected': ' rejected   rejected   rejected   rejected   !    !    =    rejected  rejected  !    !    rejected',
  wake: '              =          =          =          =          =    =    =    =         =         =    =    =',
  expire: '            expired    expired    =          =          =    =    =    =         =         =    =    =',
  timeout: '           =          =          timed_out  timed_out  =    =    =    =         =         =    =    =',
  cancel: '            cancelled  cancelled  d!         d!         !    !    !    !         !         =    !    !',
  'cancel by force': ' cancelled  cancelled  cancelled  cancelled  !    !    !    !         !         =    !    !',
  supersede: '         superseded sent       =          =          =    =    =    =         =         =    =    =',
  'take place':
    '      queued     sent       delivered  running    succeeded failed rejected expired timed_out cancelled superseded undeliverable',
};

const REFUSALS: Record<string, string> = { '!': 'command_finished', 'd!': 'command_delivered', x: 'not_leasable' };

describe('every event in every state', () => {
  for (const [name, row] of Object.entries(TABLE)) {
    const cells = row.trim().split(/\s+/);
    COMMAND_STATES.forEach((state, column) => {
      const cell = cells[column] ?? '';
      test(`${name} on ${state} gives ${REFUSALS[cell] ?? (cell === '=' ? 'no change' : cell)}`, () => {
        const before = AS_IT_STANDS[state];
        const event = EVENTS[name];
        if (event === undefined) throw new Error(`no event ${name}`);
        const after = transition(before, event, NOW);
        if (cell === '=') expect(after).toBe(before);
        else if (cell in REFUSALS) expect(after).toBe(REFUSALS[cell]);
        else expect(after).toMatchObject({ id: before.id, state: cell });
        if (typeof after === 'string' || cell === '=') return;
        expect(after.finishedAt).toBe(
          isEnded(before) && before.state === after.state ? before.finishedAt : isEnded(after) ? NOW : undefined,
        );
        expect(transition(before, event, NOW), 'pure').toEqual(after);
      });
    });
  }
});

describe('what a step leaves on the command', () => {
  test('a lease counts the attempt and says until when it holds', () => {
    expect(step(queued, { type: 'lease', transport: 'http', leaseMs: 5_000, handover: 8 })).toMatchObject({
      attempts: 1,
      transport: 'http',
      handover: 8,
      sentAt: NOW,
      leaseUntil: NOW + 5_000,
    });
  });

  test('a lapse after the last attempt makes it undeliverable', () => {
    expect(step({ ...sent, attempts: 3 }, { type: 'lapse' })).toMatchObject({ state: 'undeliverable', finishedAt: NOW });
  });

  test('a lapse keeps the number of the hand-over, since the device may have it', () => {
    expect(step(sent, { type: 'lapse' })).toMatchObject({ state: 'queued', handover: 7, attempts: 1 });
  });

  test('a release gives the attempt back, also the last one, and leaves no trace of a first hand-over', () => {
    const leased = step(queued, { type: 'lease', transport: 'sse', leaseMs: 5_000, handover: 8 });
    expect(step(leased, { type: 'release' })).toEqual(queued);
    expect(step({ ...sent, attempts: 3 }, { type: 'release' })).toMatchObject({
      state: 'queued',
      attempts: 2,
      transport: 'mqtt',
    });
    expect(step({ ...sent, supersededBy: 'newer' }, { type: 'release' })).toMatchObject({ state: 'superseded', attempts: 0 });
  });

  test('a deferral says why and when, is kept when the same is said again, and is gone with the next hand-over', () => {
    const event = { type: 'defer', reason: 'over_max_bytes', bytes: 900, bytesMax: 512 } as const;
    const deferred = step(queued, event);
    expect(deferred.deferral).toEqual({ reason: 'over_max_bytes', at: NOW, bytes: 900, bytesMax: 512 });
    expect(transition(deferred, event, NOW + 9)).toBe(deferred);
    const otherwise = transition(deferred, { ...event, bytesMax: 600 }, NOW + 9);
    expect(otherwise).toMatchObject({ deferral: { bytesMax: 600, at: NOW + 9 } });
    const leased = step(deferred, { type: 'lease', transport: 'http', leaseMs: 5_000, handover: 8 });
    expect(leased).not.toHaveProperty('deferral');
    expect(step(deferred, { type: 'confirm', transport: 'http' })).not.toHaveProperty('deferral');
    expect(step(deferred, { type: 'expire' })).toMatchObject({ state: 'expired', deferral: { reason: 'over_max_bytes' } });
  });

  test('a condition that does not hold is the reason of the cancellation', () => {
    expect(step(queued, { type: 'fail_condition', message: 'level is 3' })).toMatchObject({
      state: 'cancelled',
      error: 'condition_failed: level is 3',
      finishedAt: NOW,
    });
  });

  test('a command names those whose place it took, each once', () => {
    const first = step(queued, { type: 'take_place', of: 'a' });
    expect(step(first, { type: 'take_place', of: 'b' }).supersedes).toEqual(['a', 'b']);
    expect(transition(first, { type: 'take_place', of: 'a' }, NOW)).toBe(first);
  });

  test('confirmation is the end of a command that asks for delivery alone', () => {
    expect(step({ ...sent, confirm: 'delivery' }, { type: 'confirm', transport: 'mqtt' })).toMatchObject({
      state: 'succeeded',
      deliveredAt: NOW,
      finishedAt: NOW,
    });
  });

  test('a report whose confirmation was lost fills in the delivery', () => {
    expect(step(sent, { type: 'report', report: { state: 'succeeded' }, transport: 'http' })).toMatchObject({
      state: 'succeeded',
      deliveredAt: NOW,
      transport: 'http',
    });
  });

  test('each sign of progress starts the time for the report anew', () => {
    const after = step(running, { type: 'report', report: { state: 'running', progress: 60 }, transport: 'mqtt' });
    expect(after).toMatchObject({ progress: 60, startedAt: running.startedAt, reportBy: NOW + 300_000 });
  });

  test('the same progress twice changes nothing', () => {
    expect(transition(running, { type: 'report', report: { state: 'running', progress: 10 }, transport: 'mqtt' }, NOW)).toBe(
      running,
    );
  });

  for (const state of ['expired', 'timed_out', 'undeliverable'] as const) {
    test(`the device's word after ${state} counts and is marked late`, () => {
      const after = step(AS_IT_STANDS[state], {
        type: 'report',
        report: { state: 'failed', message: 'too late' },
        transport: 'http',
      });
      expect(after).toMatchObject({ state: 'failed', late: true, message: 'too late', finishedAt: NOW });
      expect(after).not.toHaveProperty('error');
    });
  }

  test('a command that is superseded while sent ends when its lease lapses, with the link', () => {
    const marked = step(sent, { type: 'supersede', by: 'newer' });
    expect(marked).toMatchObject({ state: 'sent', supersededBy: 'newer' });
    expect(step(marked, { type: 'lapse' })).toMatchObject({ state: 'superseded', supersededBy: 'newer' });
    expect(step(marked, { type: 'confirm', transport: 'mqtt' })).not.toHaveProperty('supersededBy');
  });

  test('a wake on offer counts, and the one after the last expires it', () => {
    const twice = { ...queued, expiresWakes: 2 };
    const second = step(step(twice, { type: 'wake' }), { type: 'wake' });
    expect(second).toMatchObject({ state: 'queued', wakes: 2 });
    expect(step(second, { type: 'wake' })).toMatchObject({ state: 'expired' });
  });

  test('a cancel gives its reason', () => {
    expect(step(queued, { type: 'cancel', force: false, reason: 'the device was deleted' })).toMatchObject({
      state: 'cancelled',
      error: 'the device was deleted',
    });
  });
});

describe('time', () => {
  test('a command is not leased before its time, nor after it', () => {
    expect(isLeasable({ ...queued, notBefore: NOW + 1 }, NOW)).toBe(false);
    expect(isLeasable({ ...queued, notBefore: NOW }, NOW)).toBe(true);
    expect(isLeasable({ ...queued, expiresAt: NOW }, NOW)).toBe(false);
  });

  test('the next deadline is the earliest that can come', () => {
    expect(nextDeadlineAt({ ...queued, notBefore: NOW + 5 }, NOW)).toBe(NOW + 5);
    expect(nextDeadlineAt({ ...queued, notBefore: NOW - 5 }, NOW)).toBe(queued.expiresAt);
    expect(nextDeadlineAt(sent, NOW)).toBe(sent.leaseUntil);
    expect(nextDeadlineAt(running, NOW)).toBe(running.reportBy);
    expect(nextDeadlineAt(AS_IT_STANDS.succeeded, NOW)).toBeUndefined();
  });

  test('what is due is told once its time has come', () => {
    expect(dueEvent(queued, NOW)).toBeUndefined();
    expect(dueEvent(queued, NOW + 60_000)).toEqual({ type: 'expire' });
    expect(dueEvent(sent, NOW + 30_000)).toEqual({ type: 'lapse' });
    expect(dueEvent(running, NOW + 300_000)).toEqual({ type: 'timeout' });
  });
});

function step(command: Command, event: CommandEvent): Command {
  const after = transition(command, event, NOW);
  if (typeof after === 'string') throw new Error(after);
  return after;
}
