import { Type } from 'typebox';
import { CURSOR_CHARS } from '../devices/cursor.ts';
import { LIMIT_MAX, MAX_BYTES_MAX, MAX_BYTES_MIN } from '../devices/packing.ts';

/** What a device may say of the answer it would like: the same in the query of a poll and in the body of a one-trip wake. */
export const PULL_DEFAULT = 10;
export const WAIT_SECONDS_MAX = 60;

export const pullParameters = {
  limit: Type.Optional(
    Type.Integer({ minimum: 1, maximum: LIMIT_MAX, default: PULL_DEFAULT, description: 'How many commands at most' }),
  ),
  maxBytes: Type.Optional(
    Type.Integer({
      minimum: MAX_BYTES_MIN,
      maximum: MAX_BYTES_MAX,
      description:
        'Octets of the whole body at most. Commands that do not fit come with the next answer; one that fits into no such answer is passed over, ' +
        'which its operator sees',
    }),
  ),
  since: Type.Optional(
    Type.String({
      maxLength: 512,
      description:
        `The \`cursor\` of the last answer that you got, ${CURSOR_CHARS} characters. It confirms the commands of that answer, and has those offered again at once ` +
        'that were handed out after it',
    }),
  ),
};
