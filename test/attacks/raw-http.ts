import { connect } from 'node:net';

/** HTTP as octets, since clients refuse to send what attackers send. */
export type RawAnswer = { readonly status: number; readonly head: string; readonly body: string };

const ANSWER_MS_MAX = 45_000;

/** All that the server says until it closes the connection, or until so many answers came. */
export function rawHttp(port: number, octets: string | Buffer, answers = 1): Promise<RawAnswer[]> {
  return new Promise((resolve, reject) => {
    const socket = connect({ port, host: '127.0.0.1' });
    let text = '';
    const finish = (): void => {
      clearTimeout(timer);
      socket.destroy();
      resolve(answersIn(text));
    };
    const timer = setTimeout(() => {
      socket.destroy();
      reject(new Error(`no end in sight: ${text.slice(0, 500)}`));
    }, ANSWER_MS_MAX);
    socket.on('data', (chunk: Buffer) => {
      text += chunk.toString('latin1');
      if (answersIn(text).length >= answers) finish();
    });
    socket.once('close', finish);
    socket.on('error', () => {});
    socket.write(octets);
  });
}

/** Lines as HTTP ends them. */
export function lines(...given: string[]): string {
  return `${given.join('\r\n')}\r\n`;
}

export function portOf(url: string): number {
  return Number(new URL(url).port);
}

/** The answers that are whole. */
function answersIn(text: string): RawAnswer[] {
  const found: RawAnswer[] = [];
  for (let rest = text; ;) {
    const headEnd = rest.indexOf('\r\n\r\n');
    const status = /^HTTP\/1\.1 (\d{3}) /.exec(rest)?.[1];
    if (headEnd < 0 || status === undefined) return found;
    const head = rest.slice(0, headEnd);
    const length = Number(/^content-length: *(\d+)$/im.exec(head)?.[1] ?? 0);
    const end = headEnd + 4 + length;
    if (rest.length < end) return found;
    found.push({ status: Number(status), head, body: rest.slice(headEnd + 4, end) });
    rest = rest.slice(end);
  }
}
