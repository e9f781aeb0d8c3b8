import { TrustedProxies } from './limits/addresses.ts';

/** Proxies before Downlink whose word about their clients' addresses is taken; none by default, since anybody may send such a header. */
export function readTrustedProxies(text: string | undefined, fail: (line: string) => never): readonly string[] {
  const networks = (text ?? '')
    .split(',')
    .map((network) => network.trim())
    .filter((network) => network !== '');
  try {
    new TrustedProxies(networks);
  } catch (error) {
    return fail(
      `DOWNLINK_TRUST_PROXY is a list of addresses or networks such as 127.0.0.1,10.0.0.0/8: ${(error as Error).message}`,
    );
  }
  return networks;
}
