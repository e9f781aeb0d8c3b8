export type JsonValue = string | number | boolean | null | JsonValue[] | { [name: string]: JsonValue };

export const JSON_DEPTH_MAX = 32;

/** True when `value` nests deeper than `depthMax` arrays and objects. */
export function isDeeperThan(value: unknown, depthMax: number): boolean {
  if (typeof value !== 'object' || value === null) return false;
  if (depthMax === 0) return true;
  for (const inner of Array.isArray(value) ? value : Object.values(value)) {
    if (isDeeperThan(inner, depthMax - 1)) return true;
  }
  return false;
}
