import { Type, type TSchema } from 'typebox';
import { expect, test } from 'vitest';
import { validatorCompiler } from '../dashboard-api/validation.ts';

/** What the one validator of all routes lets through. */
function check(httpPart: string, schema: TSchema, given: unknown): unknown {
  return validatorCompiler({ schema, httpPart, method: 'GET', url: '/' })(given);
}

test('headers of which nothing but text is asked are not looked at; of any other the rule holds', () => {
  const headers = (node: TSchema): TSchema => Type.Object({ n: Type.Optional(node) });
  expect(check('headers', headers(Type.String({ description: 'a tag' })), { n: 'x' })).toBe(true);
  for (const node of [Type.Integer(), Type.String({ maxLength: 0 }), Type.String({ pattern: '^y$' })]) {
    expect(check('headers', headers(node), { n: 'x' }), JSON.stringify(node)).toHaveProperty('error');
  }
});

test('an empty query is refused where something is asked for', () => {
  expect(check('querystring', Type.Object({ n: Type.Optional(Type.String()) }), {})).toBe(true);
  expect(check('querystring', Type.Object({ n: Type.String() }), {})).toHaveProperty('error');
});
