import { createServer } from 'node:net';
import { Aedes } from 'aedes';
import { ready } from './ready.ts';

/** aedes as it comes: acknowledges what it is sent and keeps nothing. */
const broker = await Aedes.createBroker();
const server = createServer((socket) => void broker.handle(socket));
server.listen(0, '127.0.0.1', () => ready({ mqtt: server.address() }));
