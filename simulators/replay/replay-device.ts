import { DAY_MS, SECOND_MS } from '../../devices/clock.ts';
import { TS_AHEAD_SECONDS_DEFAULT, TS_BEHIND_SECONDS_DEFAULT, type DeviceLimits } from '../../devices/device.ts';
import type { DeviceView, OperatorApi } from '../operator-api.ts';
import type { ReplayOptions } from '../options.ts';
import { UserError } from '../user-error.ts';
import { keepToken, keptToken } from './device-tokens.ts';
import type { Recording } from './examine.ts';

/** The bounds of the schema of a device's limits. */
const BEHIND_SECONDS_MAX = 4_000_000_000;
const AHEAD_SECONDS_MAX = 31_536_000;
/** So that the same file can be sent again for a while. */
const SPARE_SECONDS = (30 * DAY_MS) / SECOND_MS;

/**
 * Makes sure that the device is there, takes readings as old as these, and that we have its token, which is the answer. Says
 * what it changed. Throws UserError with the way out when the device is in use and its token is not ours.
 */
export async function prepareDevice(
  api: OperatorApi,
  options: ReplayOptions,
  recording: Recording,
  say: (line: string) => void,
): Promise<string> {
  const { device: id } = options;
  const needed = neededLimits(recording, Date.now());
  const known = await api.device(id);
  if (known === undefined) {
    if (options.token !== undefined) throw new UserError(`There is no device ${id}; leave --token away, and it is made.`);
    const created = await api.createDevice({ id, labels: { source: 'replay' }, limits: needed });
    if (created === 'exists') throw new UserError(`Somebody else just made ${id}; start again.`);
    say(`Made the device ${id}.`);
    await keep(options, created.token, say);
    return created.token;
  }
  const token = await tokenOf(known, api, options, say);
  if (areTooTight(known.limits, needed)) {
    await api.changeDevice(id, { limits: { ...known.limits, ...needed } });
    say(`${id} now takes readings from ${new Date(recording.from).toISOString()} on: its limits were changed.`);
  }
  return token;
}

async function tokenOf(
  { id, presence }: DeviceView,
  api: OperatorApi,
  options: ReplayOptions,
  say: (line: string) => void,
): Promise<string> {
  const { token, rotateToken, server } = options;
  if (token !== undefined) return token;
  const kept = rotateToken ? undefined : await keptToken(server.dataDir, server.url, id);
  if (kept !== undefined) return kept;
  if (!rotateToken && presence.state !== 'never') {
    throw new UserError(
      `${id} is in use (${presence.state}) and its token is not known here. Pass it with --token T, or give the device a new one with --rotate-token, which cuts off whoever has the old one.`,
    );
  }
  const fresh = await api.rotateToken(id);
  say(rotateToken ? `${id} has a new token.` : `${id} was never heard of; it has a new token.`);
  await keep(options, fresh, say);
  return fresh;
}

async function keep({ server, device }: ReplayOptions, token: string, say: (line: string) => void): Promise<void> {
  try {
    await keepToken(server.dataDir, server.url, device, token);
  } catch (error) {
    say(`Its token could not be kept (${(error as Error).message}); to replay again, use --rotate-token.`);
  }
}

function neededLimits({ from, to }: Recording, now: number): DeviceLimits {
  const behind = Math.ceil((now - from) / SECOND_MS);
  const ahead = Math.ceil((to - now) / SECOND_MS);
  if (behind > BEHIND_SECONDS_MAX)
    throw new UserError(`The first reading is of ${new Date(from).toISOString()}: older than any the server takes.`);
  if (ahead > AHEAD_SECONDS_MAX)
    throw new UserError(`The last reading is of ${new Date(to).toISOString()}: more than a year ahead.`);
  return {
    ...(behind > TS_BEHIND_SECONDS_DEFAULT / 2 && { tsBehindSeconds: Math.min(BEHIND_SECONDS_MAX, behind + SPARE_SECONDS) }),
    ...(ahead > 0 && { tsAheadSeconds: Math.min(AHEAD_SECONDS_MAX, ahead + TS_AHEAD_SECONDS_DEFAULT) }),
  };
}

/** True when the limits as they stand would not take all of it. The spare is not asked for anew each time. */
function areTooTight(limits: DeviceLimits = {}, needed: DeviceLimits): boolean {
  const behind = limits.tsBehindSeconds ?? TS_BEHIND_SECONDS_DEFAULT;
  const ahead = limits.tsAheadSeconds ?? TS_AHEAD_SECONDS_DEFAULT;
  return behind < (needed.tsBehindSeconds ?? 0) - SPARE_SECONDS / 2 || ahead < (needed.tsAheadSeconds ?? 0);
}
