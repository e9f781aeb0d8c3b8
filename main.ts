import closeWithGrace from 'close-with-grace';
import { ArgumentError, readArguments, USAGE, type Arguments } from './broker/arguments.ts';
import { banner } from './broker/banner.ts';
import { ConfigError, readConfig } from './broker/config.ts';
import { StartError } from './broker/data-folder.ts';
import { recoveryReport } from './broker/recover.ts';
import { restoreBackup, restoreReport } from './broker/backup/restore.ts';
import { startServer, VERSION } from './server.ts';

/** The program: reads the configuration, starts the server, stops it on a signal. */
const STOP_MS_MAX = 10_000;

// All that it writes is for its owner alone, in whatever folder.
process.umask(0o077);

try {
  const { help, ...how } = readArguments(process.argv.slice(2));
  if (help) process.stdout.write(USAGE);
  else await run(how);
} catch (error) {
  if (!(error instanceof ConfigError) && !(error instanceof StartError) && !(error instanceof ArgumentError)) throw error;
  process.stderr.write(`downlink: ${error.message}\n`);
  process.exitCode = 1;
}

async function run({ recover, restore }: Omit<Arguments, 'help'>): Promise<void> {
  const config = readConfig(process.env);
  const restored = restore === undefined ? undefined : await restoreBackup(restore, config.dataDir, { now: () => Date.now() });
  if (restored !== undefined) process.stdout.write(restoreReport(restored));
  const server = await startServer(config, undefined, { recover, ...(restored !== undefined && { restored }) });
  if (server.recovered !== undefined) process.stdout.write(recoveryReport(server.recovered));
  process.stdout.write(banner(config, server, VERSION));
  closeWithGrace({ delay: STOP_MS_MAX }, async ({ signal, err }) => {
    if (err) process.stderr.write(`downlink: stopping after a fault: ${err.stack ?? err.message}\n`);
    else process.stdout.write(`\n${signal ?? 'stop'}: finishing what was taken …\n`);
    await server.close();
    process.stdout.write('stopped\n');
  });
}
