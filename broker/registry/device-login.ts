import type { Device } from '../../devices/device.ts';
import { DownlinkError } from '../../devices/downlink-error.ts';
import type { DeviceAuth } from '../config-tls.ts';
import type { ClientCertificate } from '../tls/client-certificate.ts';
import type { DeviceRegistry } from './device-registry.ts';

/**
 * Whether what a device has shown lets it in, whatever it came by. What is shown has to hold: a certificate and a token that are of two devices let
 * neither in, also where one of them would do.
 */
export class DeviceLogin {
  readonly #registry: DeviceRegistry;
  readonly #deviceAuth: DeviceAuth;

  constructor(registry: DeviceRegistry, deviceAuth: DeviceAuth) {
    this.#registry = registry;
    this.#deviceAuth = deviceAuth;
  }

  /** A certificate may do without a token. */
  get takesCertificates(): boolean {
    return this.#deviceAuth !== 'token';
  }

  /** `ofToken`: the device whose token was shown. Throws `unauthorized` with a sentence that says what is missing or wrong. */
  admit(ofToken: Device | undefined, certificate: ClientCertificate | undefined): Device {
    const isNeeded = this.#deviceAuth === 'certificate' || this.#deviceAuth === 'both';
    if (isNeeded && certificate === undefined) throw refusal('this server lets a device in by its client certificate, over TLS');
    if (certificate?.deviceId === undefined || !this.takesCertificates) {
      if (ofToken !== undefined && !isNeeded) return ofToken;
      throw refusal(certificate?.problem ?? 'the device token is missing');
    }
    const { deviceId } = certificate;
    if (this.#deviceAuth === 'both' && ofToken === undefined) {
      throw refusal(`the token of ${deviceId} is needed beside its client certificate`);
    }
    if (ofToken !== undefined && ofToken.id !== deviceId) {
      throw refusal(`the client certificate is of ${deviceId}, the token of another device`);
    }
    const device = this.#registry.find(deviceId);
    if (device === undefined) throw refusal(`the client certificate names ${deviceId}, and no such device is registered`);
    if (this.#registry.isRevoked(deviceId)) throw refusal(`${deviceId} was shut out; give it a new token to let it in again`);
    return device;
  }
}

function refusal(message: string): DownlinkError {
  return new DownlinkError('unauthorized', message);
}
