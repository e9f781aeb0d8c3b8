import type { AuthenticateError, AuthErrorCode, Client } from 'aedes';
import { isDeviceId } from '../../devices/device.ts';
import { DownlinkError } from '../../devices/downlink-error.ts';
import type { DeviceLogin } from '../registry/device-login.ts';
import type { DeviceRegistry } from '../registry/device-registry.ts';
import type { OperatorKey, OperatorKeys } from '../registry/operator-keys.ts';
import { clientCertificateOf, type ClientCertificate } from '../tls/client-certificate.ts';
import { Programs } from './programs.ts';

/**
 * Who a CONNECT is from. A password that is an operator key, with the key's id for a username, is a program; anything else is a device, whose client id
 * and username are its id and whose password is its token; with a client certificate it may do without a password, and without a username.
 */
export type Identity =
  | { readonly kind: 'device'; readonly id: string }
  | { readonly kind: 'program'; readonly key: OperatorKey }
  | { readonly kind: 'refused'; readonly message: string; readonly returnCode: AuthErrorCode };

type Connect = { clientId: string; readonly username?: string; readonly password?: Buffer };

const REFUSED_IDENTIFIER = 2 as AuthErrorCode;
const REFUSED_UNAVAILABLE = 3 as AuthErrorCode;
const REFUSED_CREDENTIAL = 4 as AuthErrorCode;
const REFUSED_RIGHTS = 5 as AuthErrorCode;

export class Authenticator {
  readonly #registry: DeviceRegistry;
  readonly #deviceLogin: DeviceLogin;
  readonly #keys: OperatorKeys;
  readonly #identities = new WeakMap<object, Identity>();

  constructor(registry: DeviceRegistry, deviceLogin: DeviceLogin, keys: OperatorKeys) {
    this.#registry = registry;
    this.#deviceLogin = deviceLogin;
    this.#keys = keys;
  }

  /** Before aedes takes the client id from the packet: a program's gets its key's id before it. */
  prepare(client: Client, connect: Connect): void {
    const { username, password } = connect;
    const key = username === undefined || password === undefined ? undefined : this.#keys.find(password.toString('utf8'));
    if (key === undefined || key.id !== username) return;
    const clientId = Programs.clientIdOf(key.id, connect.clientId);
    const identity = programIdentity(key, clientId);
    this.#identities.set(client, identity);
    if (identity.kind === 'program') this.#keys.used(key.id, ('remoteAddress' in client.conn && client.conn.remoteAddress) || '');
    connect.clientId = clientId ?? '';
  }

  identify(client: Client, username: string | undefined, password: Buffer | undefined): Identity {
    const program = this.#identities.get(client);
    if (program !== undefined) return program;
    const certificate = this.#deviceLogin.takesCertificates ? clientCertificateOf(client.conn) : undefined;
    if (username === undefined && certificate === undefined) {
      return refused('the username is the device id, the password its token', REFUSED_CREDENTIAL);
    }
    const id = username ?? client.id;
    // Some clients send an empty password along with every username.
    const hasToken = password !== undefined && password.length > 0;
    if (hasToken ? !this.#registry.isTokenOf(id, password.toString('utf8')) : certificate === undefined) {
      return refused('unknown device or wrong token', isDeviceId(id) ? REFUSED_CREDENTIAL : REFUSED_IDENTIFIER);
    }
    return this.#admit(client.id, id, hasToken, certificate);
  }

  #admit(clientId: string, id: string, hasToken: boolean, certificate: ClientCertificate | undefined): Identity {
    try {
      const device = this.#deviceLogin.admit(hasToken ? this.#registry.find(id) : undefined, certificate);
      if (device.id === id && clientId === id) return { kind: 'device', id };
      return refused('client id and username are both the device id', REFUSED_IDENTIFIER);
    } catch (error) {
      if (error instanceof DownlinkError) return refused(error.message, REFUSED_CREDENTIAL);
      throw error;
    }
  }
}

function programIdentity(key: OperatorKey, clientId: string | undefined): Identity {
  if (key.mqtt === undefined) return refused('the key has no rights on MQTT', REFUSED_RIGHTS);
  if (clientId === undefined) return refused('the client id is too long', REFUSED_IDENTIFIER);
  return { kind: 'program', key };
}

export function refused(message: string, returnCode: AuthErrorCode = REFUSED_UNAVAILABLE): Identity & { kind: 'refused' } {
  return { kind: 'refused', message, returnCode };
}

export function errorOf({ message, returnCode }: Identity & { kind: 'refused' }): AuthenticateError {
  return Object.assign(new Error(message), { returnCode });
}
