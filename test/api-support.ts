import { expect } from 'vitest';
import { STATUS_OF } from '../dashboard-api/problem.ts';
import { ERROR_CODES, type ErrorCode } from '../devices/error-codes.ts';
import type { Answer, LiveServer } from './live-server.ts';

/** What the API's tests share. */
type Problem = { type?: string; title?: string; status?: number; detail?: string; code?: string; at?: string };

/** The answer is a whole problem document with this code, its status, and the place of the fault. */
export function expectProblem(answer: Answer, code: ErrorCode, at?: string): void {
  const body = answer.body as Problem;
  expect({ status: answer.status, code: body.code, at: body.at }).toEqual({ status: STATUS_OF[code], code, at });
  expect(answer.headers.get('content-type')).toMatch(/^application\/problem\+json/);
  expect(body).toMatchObject({ type: `urn:downlink:problem:${code}`, title: ERROR_CODES[code], status: STATUS_OF[code] });
  expect(body.detail).toBeTruthy();
}

/** A key of its own with this role. */
export async function keyFor(server: LiveServer, role: 'viewer' | 'operator' | 'admin'): Promise<{ id: string; secret: string }> {
  const { body } = await server.request<{ key: { id: string }; secret: string }>('POST', '/v1/keys', {
    body: { name: role, role },
  });
  return { id: body.key.id, secret: body.secret };
}

/** JSON nested so deep. */
export function nested(depth: number): string {
  return '['.repeat(depth) + ']'.repeat(depth);
}

/** Polls until `get` answers something; the test's own time-out is the limit. */
export async function eventually<T>(get: () => Promise<T | undefined>): Promise<T> {
  for (;;) {
    const found = await get();
    if (found !== undefined) return found;
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}
