/** The MQTT topics of a device, by exact name (DESIGN: the wire). */

export function telemetryTopic(deviceId: string): string {
  return `devices/${deviceId}/telemetry`;
}

export function commandsTopic(deviceId: string): string {
  return `devices/${deviceId}/commands`;
}

export function reportTopic(deviceId: string, commandId: string): string {
  return `devices/${deviceId}/commands/${commandId}`;
}

export function notifyTopic(deviceId: string): string {
  return `devices/${deviceId}/notify`;
}

export function errorsTopic(deviceId: string): string {
  return `devices/${deviceId}/errors`;
}

export type UpTopic =
  | { readonly kind: 'telemetry' }
  | { readonly kind: 'report'; readonly commandId: string }
  | { readonly kind: 'foreign' }
  | { readonly kind: 'unknown' };

/** What a publish of `deviceId` to `topic` means. */
export function parseUpTopic(deviceId: string, topic: string): UpTopic {
  const own = `devices/${deviceId}/`;
  if (!topic.startsWith(own)) return { kind: 'foreign' };
  const rest = topic.slice(own.length);
  if (rest === 'telemetry') return { kind: 'telemetry' };
  const commandId = rest.startsWith('commands/') ? rest.slice('commands/'.length) : '';
  return commandId !== '' && !commandId.includes('/') ? { kind: 'report', commandId } : { kind: 'unknown' };
}

/** True for the three topics that a device may subscribe to. */
export function isDownTopic(deviceId: string, topic: string): boolean {
  return topic === commandsTopic(deviceId) || topic === notifyTopic(deviceId) || topic === errorsTopic(deviceId);
}
