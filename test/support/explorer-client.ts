// A page's end of the explorer's socket, for tests: a real WebSocket, every message that came, and waits for those that will.
import { WebSocket } from 'ws';
import type { Answer, PageRequest, ServerMessage } from '../../src/web/protocol.js';

type Of<T extends ServerMessage['type']> = Extract<ServerMessage, { type: T }>;
type Question<T extends PageRequest = PageRequest> = T extends { id: number } ? Omit<T, 'id'> : never;

const PATIENCE_MS = 20_000;

export class ExplorerClient implements Disposable {
  readonly messages: ServerMessage[] = [];
  /** What the guest printed. */
  printed = '';
  /** Resolves with the code with which the server closed the socket. */
  readonly closed: Promise<number>;
  #waiting: (() => void)[] = [];
  #id = 0;

  private constructor(private readonly socket: WebSocket) {
    this.closed = new Promise((resolve) => socket.on('close', (code) => resolve(code)));
    socket.on('message', (data, isBinary) => {
      const text = (data as Buffer).toString('latin1');
      if (isBinary) this.printed += text;
      else this.messages.push(JSON.parse((data as Buffer).toString()) as ServerMessage);
      for (const look of this.#waiting.splice(0)) look();
    });
  }

  /** @param url the page's */
  static async open(url: string): Promise<ExplorerClient> {
    const socket = new WebSocket(new URL('socket', url), { origin: new URL(url).origin });
    const client = new ExplorerClient(socket);
    await new Promise((resolve, reject) => {
      socket.once('open', resolve);
      socket.once('error', reject);
    });
    return client;
  }

  send(request: PageRequest): void {
    this.socket.send(JSON.stringify(request));
  }

  raw(text: string | Uint8Array): void {
    this.socket.send(text);
  }

  /** What comes from now on, or has come since `from` messages. */
  async next<T extends ServerMessage['type']>(
    type: T,
    is: (message: Of<T>) => boolean = () => true,
    from = this.messages.length,
  ): Promise<Of<T>> {
    const find = (): Of<T> | undefined =>
      this.messages
        .slice(from)
        .filter((message): message is Of<T> => message.type === type)
        .find(is);
    await this.until(() => find() !== undefined, `a message of type ${type}`);
    return find() as Of<T>;
  }

  async until(is: () => boolean, what: string): Promise<void> {
    const deadline = Date.now() + PATIENCE_MS;
    while (!is()) {
      if (Date.now() > deadline) throw new Error(`waited in vain for ${what}; the last: ${this.#last()}`);
      await new Promise<void>((resolve) => {
        this.#waiting.push(resolve);
        setTimeout(resolve, 500).unref();
      });
    }
  }

  async ask(question: Question): Promise<Answer> {
    const id = this.#id++;
    const answer = this.next('answer', (message) => message.id === id);
    this.send({ ...question, id });
    return answer;
  }

  [Symbol.dispose](): void {
    this.socket.terminate();
  }

  #last(): string {
    return JSON.stringify(this.messages.slice(-3)).slice(0, 600);
  }
}
