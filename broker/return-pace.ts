/** After a stop clients are asked back at this pace, over a minute at the most: all at once would be a flood. */
const RETURNS_PER_SECOND = 250;
const RETURN_SECONDS_MIN = 2;
const RETURN_SPREAD_SECONDS_MAX = 60;

/** In how many seconds the client `at` (0, 1, …) of `count` is to come back after the server stopped. */
export function returnSeconds(at: number, count: number): number {
  const spreadSeconds = Math.min(Math.ceil(count / RETURNS_PER_SECOND), RETURN_SPREAD_SECONDS_MAX);
  return RETURN_SECONDS_MIN + (at % Math.max(1, spreadSeconds));
}
