/** Addresses that clients are given, looked at before anything is begun: a client that goes on trying for ever would never tell that it has none. */
const SCHEMES = {
  mqtt: ['mqtt', 'mqtts', 'tcp', 'tls', 'ssl', 'ws', 'wss'],
  http: ['http', 'https'],
} as const;
const EXAMPLES = { mqtt: 'mqtt://host:1883', http: 'http://host:8080' } as const;

/** Throws a TypeError that names the client, the option and what it was. */
export function requireAddress(client: string, option: string, address: unknown, kind: keyof typeof SCHEMES): void {
  const schemes: readonly string[] = SCHEMES[kind];
  const url = typeof address === 'string' && URL.canParse(address) ? new URL(address) : undefined;
  if (url !== undefined && schemes.includes(url.protocol.slice(0, -1)) && url.hostname !== '') return;
  const given = address === undefined ? 'it is missing' : `not ${JSON.stringify(address)}`;
  throw new TypeError(
    `${client}: \`${option}\` is the server's address, such as ${EXAMPLES[kind]} (${schemes.join(', ')}); ${given}`,
  );
}
