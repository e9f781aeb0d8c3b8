import { execFileSync } from 'node:child_process';
import type { Socket } from 'node:net';
import { compare } from '../compare.ts';
import { openMqtt } from '../load/mqtt-connection.ts';
import { bareAedes } from '../peer-target.ts';
import { settledBytes } from '../resident-memory.ts';

/**
 * What a device costs that is connected and says nothing: the growth of the server's resident memory, a connection. What a server's
 * start left free is filled first, so the whole stands beside it.
 */
const CONNECTING_AT_ONCE = 50;
const KEEPALIVE_SECONDS = 3_600;
/** File descriptors that a process needs for itself. */
const OWN_FILES = 500;

export const idleMemory = compare({
  id: 'idle-memory',
  peers: () => [bareAedes],
  usualRuns: 3,
  figures: [
    { id: 'idle-memory', title: 'memory of one idle MQTT device', unit: 'KB', goal: '<= 25 KB' },
    { id: 'idle-total', title: '  the whole server with them', unit: 'MB' },
    { id: 'idle-connections', title: '  at so many connections', unit: 'devices' },
  ],

  devices(load, { note }) {
    const allowed = openFilesMax() - OWN_FILES;
    if (allowed >= load.idleConnections) return load.idleConnections;
    note(`idle-memory: ${allowed} connections in place of ${load.idleConnections}, since ulimit -n is ${allowed + OWN_FILES}`);
    return allowed;
  },

  async measure(target, { settleMsMax }) {
    const before = await settledBytes(target, settleMsMax);
    const sockets: Socket[] = [];
    let closed = 0;
    const waiting = target.devices.values();
    const connect = async (): Promise<void> => {
      for (const device of waiting) {
        const socket = await openMqtt(target.mqttPort, device, KEEPALIVE_SECONDS);
        socket.on('close', () => (closed += 1)).on('error', () => {});
        sockets.push(socket);
      }
    };
    await Promise.all(Array.from({ length: CONNECTING_AT_ONCE }, connect));
    const after = await settledBytes(target, settleMsMax);
    if (closed > 0) throw new Error(`the server closed ${closed} of ${sockets.length} idle connections`);
    for (const socket of sockets) socket.removeAllListeners('close').destroy();
    return {
      'idle-memory': (after - before) / 1_000 / sockets.length,
      'idle-total': after / 1_000_000,
      'idle-connections': sockets.length,
    };
  },
});

/** Node.js has raised the soft limit to the hard one for itself, and hands that on. */
function openFilesMax(): number {
  try {
    const limit = execFileSync('sh', ['-c', 'ulimit -n'], { encoding: 'utf8' }).trim();
    return limit === 'unlimited' ? Number.POSITIVE_INFINITY : Number(limit);
  } catch {
    return Number.POSITIVE_INFINITY;
  }
}
