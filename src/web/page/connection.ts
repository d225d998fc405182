// The page's end of the WebSocket: messages to those who want them, requests with answers.
// RFC 6455; what is said is protocol.ts.
import type { Answer, PageRequest, ServerMessage } from '../protocol.js';

type Handlers = { readonly [T in ServerMessage['type']]?: (message: Extract<ServerMessage, { type: T }>) => void };
type Question<T extends PageRequest = PageRequest> = T extends { id: number } ? Omit<T, 'id'> : never;

const SOCKET = 'socket';
/** Typed text goes in pieces of this size, so that a paste fits. */
const PIECE = 4000;

export class Connection {
  readonly #socket: WebSocket;
  readonly #waiting = new Map<number, (answer: Answer) => void>();
  #next = 0;

  constructor(handlers: readonly Handlers[], onBytes: (bytes: Uint8Array) => void, onGone: () => void) {
    this.#socket = new WebSocket(new URL(SOCKET, location.href));
    this.#socket.binaryType = 'arraybuffer';
    this.#socket.addEventListener('message', ({ data }: MessageEvent<string | ArrayBuffer>) => {
      if (typeof data !== 'string') return onBytes(new Uint8Array(data));
      const message = JSON.parse(data) as ServerMessage;
      if (message.type === 'answer') this.#answer(message);
      // The handler under a type takes messages of that type, which TypeScript cannot follow.
      for (const each of handlers) (each[message.type] as ((message: ServerMessage) => void) | undefined)?.(message);
    });
    this.#socket.addEventListener('close', () => {
      for (const resolve of this.#waiting.values()) resolve({ error: 'The server has gone.' });
      this.#waiting.clear();
      onGone();
    });
  }

  send(request: PageRequest): void {
    if (this.#socket.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify(request));
  }

  type(text: string): void {
    for (let at = 0; at < text.length; at += PIECE) this.send({ type: 'input', text: text.slice(at, at + PIECE) });
  }

  ask(question: Question): Promise<Answer> {
    if (this.#socket.readyState !== WebSocket.OPEN) return Promise.resolve({ error: 'The server has gone.' });
    const id = this.#next++;
    const answer = new Promise<Answer>((resolve) => this.#waiting.set(id, resolve));
    this.send({ ...question, id });
    return answer;
  }

  #answer({ id, ...answer }: Extract<ServerMessage, { type: 'answer' }>): void {
    this.#waiting.get(id)?.(answer);
    this.#waiting.delete(id);
  }
}

export type { Handlers };
