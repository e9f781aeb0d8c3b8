import { compare } from '../compare.ts';
import { HttpConnection } from '../load/http-connection.ts';
import { bareFastify } from '../peer-target.ts';
import type { Target } from '../target.ts';

/** A sleepy device's whole work: it pulls one command, and reports what came of it. */
const WARM_UP_SHARE = 0.2;

export const pullAndReport = compare({
  id: 'pull',
  peers: () => [bareFastify('Fastify, canned answers')],
  figures: [{ id: 'pull', title: 'commands pulled and reported', unit: 'per s', goal: '>= 0.20 x' }],
  devices: (load) => load.connections,

  async prepare(target, load) {
    const connections = await open(target, () => target.operatorKey);
    await Promise.all(
      connections.map(async (connection, i) => {
        const id = target.devices[i]?.id ?? '';
        for (let n = 0; n < load.pairs; n += 1) {
          await connection.expect(201, 'POST', `/v1/devices/${id}/commands`, '{"name":"set_interval","params":{"seconds":60}}');
        }
      }),
    );
    for (const connection of connections) connection.close();
  },

  async measure(target, load) {
    const connections = await open(target, (i) => target.devices[i]?.token ?? '');
    const warmUpPairs = Math.ceil(load.pairs * WARM_UP_SHARE);
    await Promise.all(connections.map((connection) => work(connection, warmUpPairs)));
    const startedAt = performance.now();
    const pairs = load.pairs - warmUpPairs;
    await Promise.all(connections.map((connection) => work(connection, pairs)));
    const seconds = (performance.now() - startedAt) / 1_000;
    for (const connection of connections) connection.close();
    return { pull: (pairs * connections.length) / seconds };
  },

  async verify(target) {
    const connection = await HttpConnection.open(target.httpPort, target.operatorKey);
    for (const { id } of target.devices) {
      const body = await connection.expect(200, 'GET', `/v1/devices/${id}/commands?state=open&limit=1`);
      const { commands } = JSON.parse(body.toString()) as { commands: unknown[] };
      if (commands.length > 0)
        throw new Error(`a command of ${id} was reported and is still open: ${JSON.stringify(commands[0])}`);
    }
    connection.close();
  },
});

function open(target: Target, token: (i: number) => string): Promise<HttpConnection[]> {
  return Promise.all(target.devices.map((_, i) => HttpConnection.open(target.httpPort, token(i))));
}

async function work(connection: HttpConnection, pairs: number): Promise<void> {
  for (let n = 0; n < pairs; n += 1) {
    const body = await connection.expect(200, 'GET', '/v1/device/commands?limit=1');
    const { commands } = JSON.parse(body.toString()) as { commands: { id: string }[] };
    const [command] = commands;
    if (command === undefined) throw new Error(`a pull answered 200 without a command: ${body.toString()}`);
    await connection.expect(200, 'POST', `/v1/device/commands/${command.id}`, '{"state":"succeeded"}');
  }
}
