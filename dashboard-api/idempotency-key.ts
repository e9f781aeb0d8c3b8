import { Type } from 'typebox';

/** The header under which a request that is sent again counts once. */
export const idempotencyKeyHeader = Type.Object({
  'idempotency-key': Type.Optional(
    Type.String({ pattern: '^[\\x21-\\x7e]{1,255}$', description: '1..255 visible ASCII characters' }),
  ),
});
