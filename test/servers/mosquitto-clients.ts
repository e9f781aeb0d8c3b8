import { spawn, type ChildProcessWithoutNullStreams } from 'node:child_process';
import { serverEnvironment, serverPaths } from './server-paths.ts';

/** Starts mosquitto_pub or mosquitto_sub: MQTT clients of another make. Throws when they are not here: see isMissing. */
export function startMosquitto(client: 'pub' | 'sub', args: readonly string[]): ChildProcessWithoutNullStreams {
  const path = client === 'pub' ? serverPaths.mosquittoPub : serverPaths.mosquittoSub;
  if (path === null) throw new Error(`there is no mosquitto_${client} here`);
  return spawn(path, args, { env: serverEnvironment() });
}

/** Runs one to its end. */
export async function runMosquitto(
  client: 'pub' | 'sub',
  args: readonly string[],
  input: string | Buffer = '',
): Promise<{ code: number | null; output: string }> {
  const child = startMosquitto(client, args);
  const chunks: Buffer[] = [];
  child.stdout.on('data', (chunk: Buffer) => chunks.push(chunk));
  child.stderr.on('data', (chunk: Buffer) => chunks.push(chunk));
  child.stdin.end(input);
  const code = await new Promise<number | null>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', resolve);
  });
  return { code, output: Buffer.concat(chunks).toString() };
}
