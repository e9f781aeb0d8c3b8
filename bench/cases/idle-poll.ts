import { setTimeout as delay } from 'node:timers/promises';
import { compare } from '../compare.ts';
import { HttpConnection } from '../load/http-connection.ts';
import { bareFastify } from '../peer-target.ts';

/** A wake with nothing to fetch, the most frequent request of a sleepy fleet. */
export const idlePoll = compare({
  id: 'poll',
  peers: () => [bareFastify('Fastify, a bare 204')],
  figures: [{ id: 'poll', title: 'polls with nothing queued', unit: 'per s', goal: '>= 0.60 x' }],
  devices: (load) => load.connections,

  async measure(target, load) {
    const connections = await Promise.all(target.devices.map(({ token }) => HttpConnection.open(target.httpPort, token)));
    let polls = 0;
    let stopping = false;
    const loops = connections.map(async (connection) => {
      while (!stopping) {
        await connection.expect(204, 'GET', '/v1/device/commands');
        polls += 1;
      }
    });
    const work = Promise.all(loops);
    const timed = async (): Promise<number> => {
      await delay(load.warmUpMs);
      const before = { at: performance.now(), polls };
      await delay(load.measureMs);
      return ((polls - before.polls) / (performance.now() - before.at)) * 1_000;
    };
    // A poll that fails ends the loops, and with them the waiting.
    const poll = await Promise.race([timed(), work.then(() => Number.NaN)]);
    stopping = true;
    await work;
    for (const connection of connections) connection.close();
    return { poll };
  },
});
