import type { WakeSchedule } from '../../devices/device.ts';
import type { OperatorApi } from '../operator-api.ts';
import { UserError } from '../user-error.ts';

export const FLEET_LABELS = { fleet: 'simulated' } as const;

/**
 * Registers a simulated device, and answers its token. One that an earlier run with the same seed left behind is taken over with a
 * new token. Throws UserError when it is somebody else's, or in use by a run that still goes on.
 */
export async function registerDevice(
  api: OperatorApi,
  device: { id: string; kind: string; leaseSeconds: number; wake?: WakeSchedule },
): Promise<string> {
  const labels = { ...FLEET_LABELS, kind: device.kind };
  const wake = device.wake === undefined ? {} : { wake: device.wake };
  const created = await api.createDevice({ id: device.id, labels, ...wake, limits: { leaseSeconds: device.leaseSeconds } });
  if (created !== 'exists') return created.token;
  const known = await api.device(device.id);
  if (known !== undefined && known.labels['fleet'] !== FLEET_LABELS.fleet) {
    throw new UserError(`A device ${device.id} exists that is none of the simulation's. Choose another --seed.`);
  }
  if (known?.presence.state === 'online') {
    throw new UserError(`${device.id} is connected: a simulation with this seed is running. Choose another --seed.`);
  }
  if (device.wake !== undefined) await api.changeDevice(device.id, wake);
  return api.rotateToken(device.id);
}
