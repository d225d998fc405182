// Serves the explorer's page on the loopback interface to those who have the token, and nothing to anybody else.
// RFC 6455 (WebSocket), RFC 9110 §7.2 (Host), RFC 6454 (Origin), W3C CSP3. What is said over the sockets is protocol.ts.
import { createHash, randomBytes, timingSafeEqual } from 'node:crypto';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { Duplex } from 'node:stream';
import { WebSocketServer, type WebSocket } from 'ws';
import { REQUEST_BYTES_MAX, parseRequest, type PageRequest, type ServerMessage } from './protocol.js';

const HOST = '127.0.0.1';
const TOKEN_BYTES = 24;
/** Pages open at a time; more are a mistake or somebody's attempt. */
const CLIENTS_MAX = 8;
const CONNECTIONS_MAX = 64;
/** A page that is so far behind is let go; it may come back. */
const LOST_BYTES = 16 << 20;
/** How long the last words may take to be sent. */
const FAREWELL_MS = 500;
/** RFC 6455 §7.4.1: "going away". */
const GOING_AWAY = 1001;
const POLICY_VIOLATION = 1008;

/** Built by bundle/rolldown.config.js; the joined files lie as deep as the compiled ones. */
const ASSETS = new URL('../../web/', import.meta.url);
const ASSET_TYPES: Readonly<Record<string, string>> = {
  'index.html': 'text/html; charset=utf-8',
  'page.js': 'text/javascript; charset=utf-8',
  'page.css': 'text/css; charset=utf-8',
};

const HEADERS: Readonly<Record<string, string>> = {
  // xterm.js puts its own rules into a <style> element.
  'Content-Security-Policy':
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; connect-src 'self'; img-src data:; " +
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
  'X-Content-Type-Options': 'nosniff',
  'X-Frame-Options': 'DENY',
  'Referrer-Policy': 'no-referrer',
  'Cross-Origin-Opener-Policy': 'same-origin',
  'Cross-Origin-Resource-Policy': 'same-origin',
  'Cache-Control': 'no-store',
};

/** One open page. */
export interface PageClient {
  send(message: ServerMessage): void;
  sendBytes(bytes: Uint8Array): void;
}

export interface PageHandlers {
  onOpen(client: PageClient): void;
  onRequest(client: PageClient, request: PageRequest): void;
  onClose(client: PageClient): void;
}

/** @throws Error that names the port when it cannot be had */
export async function servePage(port: number, handlers: PageHandlers): Promise<PageServer> {
  const server = createServer();
  try {
    const listening = once(server, 'listening');
    server.listen(port, HOST);
    await listening;
  } catch (error) {
    const { code = 'unknown' } = error as NodeJS.ErrnoException;
    const remedy = code === 'EADDRINUSE' ? 'something else listens there; choose another' : 'choose another';
    throw new Error(`the explorer cannot have port ${port} of ${HOST} (${code}); ${remedy}`, { cause: error });
  }
  return new PageServer(server, handlers);
}

export class PageServer implements AsyncDisposable {
  /** The page's address, with the token: whoever has it has the machine. */
  readonly url: string;
  readonly #server: Server;
  readonly #handlers: PageHandlers;
  readonly #sockets: WebSocketServer;
  readonly #token = randomBytes(TOKEN_BYTES).toString('base64url');
  /** The values of Host under which a browser on this machine comes here. */
  readonly #hosts: ReadonlySet<string>;

  constructor(server: Server, handlers: PageHandlers) {
    const address = server.address();
    const port = typeof address === 'object' && address !== null ? address.port : 0;
    this.#server = server;
    this.#handlers = handlers;
    this.#hosts = new Set([`${HOST}:${port}`, `localhost:${port}`]);
    this.url = `http://${HOST}:${port}/${this.#token}/`;
    this.#sockets = new WebSocketServer({ noServer: true, maxPayload: REQUEST_BYTES_MAX, clientTracking: true });
    server.maxConnections = CONNECTIONS_MAX;
    server.on('request', (request, response) => this.#serve(request, response));
    server.on('upgrade', (request, socket, head) => this.#upgrade(request, socket, head));
    // A peer that breaks off is one that has gone.
    server.on('clientError', (_error, socket) => socket.destroy());
  }

  /** How many pages are open. */
  get clients(): number {
    return this.#sockets.clients.size;
  }

  /** Says goodbye to the pages, and shuts the door. */
  async close(): Promise<void> {
    const closed = once(this.#server, 'close');
    this.#server.close();
    const { clients } = this.#sockets;
    for (const client of clients) client.close(GOING_AWAY, 'the microvisor process ends');
    const deadline = setTimeout(() => {
      for (const client of clients) client.terminate();
      this.#server.closeAllConnections();
    }, FAREWELL_MS);
    this.#server.closeIdleConnections();
    await closed;
    clearTimeout(deadline);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #serve(request: IncomingMessage, response: ServerResponse): void {
    const { status, asset } = this.#answer(request);
    for (const [name, value] of Object.entries(HEADERS)) response.setHeader(name, value);
    if (asset === undefined) {
      response.writeHead(status, { 'Content-Type': 'text/plain' }).end();
      return;
    }
    const body = readFileSync(new URL(asset, ASSETS));
    response.writeHead(status, { 'Content-Type': ASSET_TYPES[asset], 'Content-Length': body.length });
    response.end(request.method === 'HEAD' ? undefined : body);
  }

  #answer({ headers, method, url = '' }: IncomingMessage): { status: number; asset?: string } {
    // A name of somebody else's that leads here (DNS rebinding) must not: its pages could read ours.
    if (!this.#hosts.has(headers.host ?? '')) return { status: 403 };
    const name = this.#nameOf(url);
    if (name === undefined) return { status: 404 };
    if (method !== 'GET' && method !== 'HEAD') return { status: 405 };
    const asset = name === '' ? 'index.html' : name;
    return Object.hasOwn(ASSET_TYPES, asset) ? { status: 200, asset } : { status: 404 };
  }

  #upgrade(request: IncomingMessage, socket: Duplex, head: Buffer): void {
    socket.on('error', () => undefined);
    const { host = '', origin } = request.headers;
    // A browser says whose page it is that connects; only our own may.
    const isOurs = this.#hosts.has(host) && origin === `http://${host}`;
    const status = !isOurs
      ? '403 Forbidden'
      : this.#nameOf(request.url ?? '') !== 'socket'
        ? '404 Not Found'
        : this.clients >= CLIENTS_MAX
          ? '503 Service Unavailable'
          : undefined;
    if (status !== undefined) {
      socket.end(`HTTP/1.1 ${status}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n`);
      return;
    }
    this.#sockets.handleUpgrade(request, socket, head, (client) => this.#admit(client));
  }

  #admit(socket: WebSocket): void {
    const client: PageClient = {
      send: (message) => sendTo(socket, JSON.stringify(message)),
      sendBytes: (bytes) => sendTo(socket, bytes),
    };
    socket.on('error', () => socket.terminate());
    socket.on('close', () => this.#handlers.onClose(client));
    socket.on('message', (data, isBinary) => {
      const request = isBinary || !Buffer.isBuffer(data) ? undefined : parseRequest(data.toString());
      // No page of ours: nothing more of it is listened to.
      if (request === undefined) socket.close(POLICY_VIOLATION, 'not a request of the explorer');
      else if (socket.readyState === socket.OPEN) this.#handlers.onRequest(client, request);
    });
    this.#handlers.onOpen(client);
  }

  /** What is asked for behind the token; undefined without the token. */
  #nameOf(url: string): string | undefined {
    const [, token = '', name, ...rest] = url.split('/');
    return isEqual(token, this.#token) && name !== undefined && rest.length === 0 ? name : undefined;
  }
}

function sendTo(socket: WebSocket, data: string | Uint8Array): void {
  if (socket.readyState !== socket.OPEN) return;
  if (socket.bufferedAmount > LOST_BYTES) socket.terminate();
  else socket.send(data);
}

/** In a time that says nothing about where they differ. */
function isEqual(a: string, b: string): boolean {
  const digest = (text: string): Buffer => createHash('sha256').update(text).digest();
  return timingSafeEqual(digest(a), digest(b));
}
