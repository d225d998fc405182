// The debugger's side of the GDB remote serial protocol, written a second time, for tests of the server.
// GDB manual, appendix "Remote Serial Protocol".
import { connect, type Socket } from 'node:net';

export interface GdbClient extends Disposable {
  /** Sends a packet and waits for its reply. */
  ask(packet: string): Promise<string>;
  /** Sends bytes as they are. */
  raw(bytes: string): void;
  /** The next reply. */
  reply(): Promise<string>;
  /** Resolves when the server has closed the connection. */
  readonly closed: Promise<void>;
}

export function packet(data: string): string {
  const sum = Buffer.from(data, 'latin1').reduce((total, byte) => (total + byte) & 0xff, 0);
  return `$${data}#${sum.toString(16).padStart(2, '0')}`;
}

export async function gdbClient(address: string): Promise<GdbClient> {
  const [host = '', port = ''] = address.split(':');
  const socket: Socket = address.startsWith('/') ? connect(address) : connect(Number(port), host);
  const closed = new Promise<void>((resolve) => socket.once('close', () => resolve()));
  const replies: string[] = [];
  const waiting: ((reply: string) => void)[] = [];
  let text = '';
  socket.on('error', () => undefined);
  socket.on('data', (bytes) => {
    text += bytes.toString('latin1');
    for (let found = /\$([^#]*)#[0-9a-f]{2}/.exec(text); found !== null; found = /\$([^#]*)#[0-9a-f]{2}/.exec(text)) {
      text = text.slice(found.index + found[0].length);
      socket.write('+');
      const reply = found[1] ?? '';
      const next = waiting.shift();
      if (next === undefined) replies.push(reply);
      else next(reply);
    }
  });
  await new Promise<void>((resolve, reject) => {
    socket.once('connect', () => resolve());
    socket.once('error', reject);
  });
  const reply = (): Promise<string> => {
    const ready = replies.shift();
    if (ready !== undefined) return Promise.resolve(ready);
    return new Promise((resolve, reject) => {
      waiting.push(resolve);
      void closed.then(() => reject(new Error('the server has closed the connection')));
    });
  };
  return {
    ask(data) {
      socket.write(packet(data), 'latin1');
      return reply();
    },
    raw: (bytes) => void socket.write(bytes, 'latin1'),
    reply,
    closed,
    [Symbol.dispose]: () => socket.destroy(),
  };
}
