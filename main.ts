import closeWithGrace from 'close-with-grace';
import { banner } from './broker/banner.ts';
import { ConfigError, readConfig } from './broker/config.ts';
import { StartError } from './broker/data-folder.ts';
import { startServer, VERSION } from './server.ts';

/** The program: reads the configuration, starts the server, stops it on a signal. */
const STOP_MS_MAX = 10_000;

try {
  const config = readConfig(process.env);
  const server = await startServer(config);
  process.stdout.write(banner(config, server, VERSION));
  closeWithGrace({ delay: STOP_MS_MAX }, async ({ signal, err }) => {
    if (err) process.stderr.write(`downlink: stopping after a fault: ${err.stack ?? err.message}\n`);
    else process.stdout.write(`\n${signal ?? 'stop'}: finishing what was taken …\n`);
    await server.close();
    process.stdout.write('stopped\n');
  });
} catch (error) {
  if (!(error instanceof ConfigError) && !(error instanceof StartError)) throw error;
  process.stderr.write(`downlink: ${error.message}\n`);
  process.exitCode = 1;
}
