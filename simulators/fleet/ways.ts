/** The ways that simulated devices are reached by, each with the reference client of its kind. */
export const WAYS = ['push', 'sleepy', 'hybrid', 'sse', 'long-poll', 'sync'] as const;
export type Way = (typeof WAYS)[number];

/** These wake by a schedule, and measure when they wake; the others are always on. */
export function isSleepy(way: Way): boolean {
  return way === 'sleepy' || way === 'sync';
}

/** These speak MQTT, if they can. */
export function isOnMqtt(way: Way): boolean {
  return way === 'push' || way === 'hybrid';
}
