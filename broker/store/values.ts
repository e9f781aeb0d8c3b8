import type { State } from './state.ts';

/** Reading State's values: one that is no JSON any more is put aside and told of, and stops nothing. */

/** Like State's scan, with the values read. */
export async function* valuesUnder<T>(
  state: State,
  prefix: string,
  options?: { after?: string; reverse?: boolean },
): AsyncIterable<[key: string, value: T]> {
  for await (const [key, text] of state.scan(prefix, options)) {
    const value = read(text);
    if (value === undefined) await state.putAside(key, text);
    else yield [key, value as T];
  }
}

/** The values under a prefix, many at a time. */
export async function* manyValuesUnder<T>(state: State, prefix: string): AsyncIterable<readonly T[]> {
  for await (const entries of state.scanMany(prefix)) {
    const values: T[] = [];
    for (const [key, text] of entries) {
      const value = read(text);
      if (value === undefined) await state.putAside(key, text);
      else values.push(value as T);
    }
    yield values;
  }
}

export async function valueAt<T>(state: State, key: string): Promise<T | undefined> {
  const text = await state.get(key);
  if (text === undefined) return undefined;
  const value = read(text);
  if (value === undefined) await state.putAside(key, text);
  return value as T | undefined;
}

/** Undefined when it is no JSON: that has no undefined. */
function read(text: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch {
    return undefined;
  }
}
