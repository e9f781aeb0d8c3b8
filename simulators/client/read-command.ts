import type { JsonValue } from '../../devices/json.ts';
import type { ReceivedCommand } from './device-client.ts';

/**
 * Reads a command from the wire: `{"id","name","params","attempt","issuedAt","expiresAt"}`, or with `payload` (base64) and
 * `contentType` in place of `params`. Unknown fields are left aside. Undefined when it is none.
 */
export function readCommand(value: unknown): ReceivedCommand | undefined {
  if (typeof value !== 'object' || value === null) return undefined;
  const { id, name, params, payload, contentType, attempt, issuedAt, expiresAt } = value as Record<string, unknown>;
  if (typeof id !== 'string' || id === '' || typeof name !== 'string') return undefined;
  return {
    id,
    name,
    ...(params !== undefined && { params: params as JsonValue }),
    ...(typeof payload === 'string' && { payload: Buffer.from(payload, 'base64') }),
    ...(typeof contentType === 'string' && { contentType }),
    attempt: typeof attempt === 'number' ? attempt : 1,
    ...(typeof issuedAt === 'string' && { issuedAt }),
    ...(typeof expiresAt === 'string' && { expiresAt }),
  };
}

/** The JSON value in `bytes`; undefined when it is none. */
export function readJson(bytes: Uint8Array): unknown {
  try {
    return JSON.parse(Buffer.from(bytes).toString('utf8'));
  } catch {
    return undefined;
  }
}
