import type { Command } from './command.ts';
import type { JsonValue } from './json.ts';

/** A command as it travels to its device, over whatever transport. Times are RFC 3339 in UTC. */
export type CommandMessage = {
  readonly id: string;
  readonly name: string;
  readonly params?: JsonValue;
  /** Octets as base64, with their content type, in place of `params`. */
  readonly payload?: string;
  readonly contentType?: string;
  /** 1 the first time it is handed over. */
  readonly attempt: number;
  readonly issuedAt: string;
  readonly expiresAt?: string;
};

export function commandMessage(command: Command): CommandMessage {
  return {
    id: command.id,
    name: command.name,
    ...(command.payload === undefined
      ? { params: command.params === undefined ? {} : command.params }
      : { payload: command.payload, contentType: command.contentType ?? 'application/octet-stream' }),
    attempt: command.attempts,
    issuedAt: new Date(command.queuedAt).toISOString(),
    ...(command.expiresAt !== undefined && { expiresAt: new Date(command.expiresAt).toISOString() }),
  };
}
