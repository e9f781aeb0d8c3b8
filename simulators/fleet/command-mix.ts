import type { Priority } from '../../devices/command.ts';
import type { JsonValue } from '../../devices/json.ts';
import type { Random } from '../models/random.ts';
import type { Kind } from './kinds.ts';
import type { Pace } from './limits.ts';

/** What the simulated operator asks for: mostly sensible commands, some that a device must reject, some on hard terms. */
export type Order = {
  readonly body: {
    readonly name: string;
    readonly params?: Record<string, JsonValue>;
    readonly priority?: Priority;
    readonly key?: string;
    readonly confirm?: 'delivery';
    readonly expires?: { readonly inSeconds: number } | { readonly wakes: number };
    readonly reportTimeoutSeconds: number;
    readonly force?: true;
  };
  readonly mayExpire: boolean;
  /** Withdrawn right after it was issued. */
  readonly cancel: boolean;
};

export function nextOrder(kind: Kind, random: Random, pace: Pace): Order {
  const wish = WISHES[kind](random);
  const sleepy = kind === 'shelf-label' || kind === 'water-meter';
  const expires = sleepy ? sleepyExpiry(random) : undefined;
  return {
    body: {
      ...wish,
      ...(random.chance(0.3) && { priority: random.pick(['low', 'high', 'urgent']) }),
      ...(expires !== undefined && { expires }),
      // Few devices take longer than this; one that hangs is known as such after it.
      reportTimeoutSeconds: random.chance(0.15) ? pace.reportSecondsShort : pace.reportSeconds,
      ...(expires !== undefined && { force: true as const }),
    },
    mayExpire: expires !== undefined,
    cancel: random.chance(0.03),
  };
}

/** Some have so little time that their device may sleep through it. */
function sleepyExpiry(random: Random): { inSeconds: number } | { wakes: number } | undefined {
  if (random.chance(0.05)) return { inSeconds: random.integer(3, 8) };
  return random.chance(0.05) ? { wakes: random.integer(1, 3) } : undefined;
}

type Wish = Pick<Order['body'], 'name' | 'params' | 'key' | 'confirm'>;

const WISHES: Record<Kind, (random: Random) => Wish> = {
  thermostat: (random) => {
    const draw = random.next();
    if (draw < 0.05) return { name: 'defrost' };
    if (draw < 0.1) return { name: 'set_target', params: { celsius: 'warm' } };
    if (draw < 0.45) return { name: 'ping', ...(random.chance(0.15) && { confirm: 'delivery' as const }) };
    const params = { celsius: random.integer(30, 50) / 2 };
    return { name: 'set_target', params, ...(random.chance(0.25) && { key: 'target' }) };
  },
  pump: (random) => {
    const draw = random.next();
    if (draw < 0.05) return { name: 'reverse' };
    if (draw < 0.35) return { name: 'stop' };
    if (draw < 0.6) return { name: 'prime' };
    return { name: 'start', params: { rpm: random.integer(5, 30) * 100 } };
  },
  'shelf-label': (random) => {
    const draw = random.next();
    if (draw < 0.05) return { name: 'sing' };
    if (draw < 0.1) return { name: 'show', params: { text: 'apples', price: -1 } };
    if (draw < 0.2) return { name: 'blank' };
    const params = { text: random.pick(['apples', 'pears', 'plums', 'quinces']), price: random.integer(50, 999) / 100 };
    return { name: 'show', params, ...(random.chance(0.25) && { key: 'text' }) };
  },
  'water-meter': (random) => {
    const draw = random.next();
    if (draw < 0.05) return { name: 'flush' };
    if (draw < 0.1) return { name: 'set_valve', params: { open: 'half' } };
    if (draw < 0.7) return { name: 'read_now' };
    return { name: 'set_valve', params: { open: random.chance(0.8) } };
  },
};
