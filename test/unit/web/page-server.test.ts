// Who gets the explorer's page, and who does not: real sockets on the loopback interface.
import { once } from 'node:events';
import { get, request, type IncomingMessage, type RequestOptions } from 'node:http';
import { connect } from 'node:net';
import { networkInterfaces } from 'node:os';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { WebSocket } from 'ws';
import { servePage, type PageClient, type PageServer } from '../../../src/web/page-server.js';
import { REQUEST_BYTES_MAX, type PageRequest } from '../../../src/web/protocol.js';
import { ExplorerClient } from '../../support/explorer-client.js';

let server: PageServer;
let clients: Set<PageClient>;
let requests: PageRequest[];

beforeEach(async () => {
  clients = new Set();
  requests = [];
  server = await servePage(0, {
    onOpen: (client) => {
      clients.add(client);
      client.send({ type: 'notice', kind: 'done', text: 'welcome' });
    },
    onRequest: (_client, asked) => void requests.push(asked),
    onClose: (client) => void clients.delete(client),
  });
});

afterEach(() => server.close());

interface Reply {
  readonly status: number;
  readonly headers: IncomingMessage['headers'];
  readonly body: string;
}

async function fetched(path: string, options: RequestOptions = {}): Promise<Reply> {
  const asked = get(new URL(path, server.url), { agent: false, ...options });
  const [response] = (await once(asked, 'response')) as [IncomingMessage];
  let body = '';
  for await (const piece of response) body += String(piece);
  return { status: response.statusCode ?? 0, headers: response.headers, body };
}

/** The status with which a WebSocket is refused; 101 when it is not. */
async function upgraded(url: URL, origin: string | undefined, headers: Record<string, string> = {}): Promise<number> {
  const socket = new WebSocket(url, { headers, ...(origin === undefined ? {} : { origin }) });
  return new Promise((resolve) => {
    socket.on('open', () => {
      resolve(101);
      socket.terminate();
    });
    socket.on('unexpected-response', (_request, response) => {
      resolve(response.statusCode ?? 0);
      socket.terminate();
    });
    socket.on('error', () => undefined);
  });
}

const origin = (): string => new URL(server.url).origin;
const port = (): number => Number(new URL(server.url).port);
const socketUrl = (): URL => new URL('socket', server.url.replace('http:', 'ws:'));

describe('"loopback, random token in its URL, nothing else served"', () => {
  it('serves the page, its code and its looks to those who have the address', async () => {
    const page = await fetched('');
    expect([page.status, page.headers['content-type']]).toEqual([200, 'text/html; charset=utf-8']);
    expect(page.body).toContain('<script type="module" src="page.js">');
    expect((await fetched('page.js')).headers['content-type']).toContain('text/javascript');
    expect((await fetched('page.css')).headers['content-type']).toContain('text/css');
  });

  it('has a token of 24 random bytes, another one each time', async () => {
    const token = new URL(server.url).pathname.split('/')[1] ?? '';
    expect(Buffer.from(token, 'base64url')).toHaveLength(24);
    await using other = await servePage(0, { onOpen: () => {}, onRequest: () => {}, onClose: () => {} });
    expect(other.url).not.toContain(token);
  });

  it('listens on the loopback interface only', async () => {
    const others = Object.values(networkInterfaces())
      .flatMap((each) => each ?? [])
      .filter(({ family, internal }) => family === 'IPv4' && !internal);
    for (const { address } of others) {
      const socket = connect(port(), address);
      const [error] = (await once(socket, 'error')) as [NodeJS.ErrnoException];
      expect(error.code).toBe('ECONNREFUSED');
    }
    expect(new URL(server.url).hostname).toBe('127.0.0.1');
  });

  it.each([
    '/',
    '/page.js',
    '/socket',
    '/wrong-token/',
    '/wrong-token/page.js',
    '/TOKEN',
    '/TOKEN/other',
    '/TOKEN/../TOKEN/page.js/..',
    '/TOKEN/page.js/',
    '/TOKEN//page.js',
    '/TOKEN/..%2f..%2fpackage.json',
    '/TOKEN/__proto__',
    '/TOKEN/index.html.map',
    '/TOKEN/page.js?x',
    '/tOKEN/',
  ])('404 for %s', async (path) => {
    const token = new URL(server.url).pathname.split('/')[1] ?? '';
    const swapped = token.replace(/[a-z]/i, (letter) =>
      letter === letter.toLowerCase() ? letter.toUpperCase() : letter.toLowerCase(),
    );
    // As a path, so that no client tidies it up.
    const raw = path.replaceAll('TOKEN', token).replace('tOKEN', swapped);
    const asked = request({ host: '127.0.0.1', port: port(), path: raw, agent: false }).end();
    const [response] = (await once(asked, 'response')) as [IncomingMessage];
    response.resume();
    expect(response.statusCode).toBe(404);
  });

  it.each(['evil.example', 'evil.example:PORT', '127.0.0.1', '127.0.0.1:1', 'localhost.evil.example:PORT'])(
    '403 for the Host %j: a name of somebody else’s that leads here',
    async (host) => {
      const headers = { host: host.replace('PORT', String(port())) };
      expect((await fetched('', { headers })).status).toBe(403);
      expect(await upgraded(socketUrl(), origin(), headers)).toBe(403);
    },
  );

  it('403 without a Host', async () => {
    const socket = connect(port(), '127.0.0.1');
    socket.write(`GET ${new URL(server.url).pathname} HTTP/1.0\r\n\r\n`);
    const [reply] = (await once(socket, 'data')) as [Buffer];
    expect(reply.toString()).toMatch(/^HTTP\/1\.1 403 /);
    socket.destroy();
  });

  it('405 for what is not read', async () => {
    const asked = request(server.url, { method: 'POST', agent: false }).end();
    const [response] = (await once(asked, 'response')) as [IncomingMessage];
    response.resume();
    expect(response.statusCode).toBe(405);
  });

  it('lets no other page frame it, read it, or run code in it', async () => {
    const { headers } = await fetched('');
    expect(headers['content-security-policy']).toContain("default-src 'none'; script-src 'self'");
    expect(headers['content-security-policy']).toContain("frame-ancestors 'none'");
    expect(headers['access-control-allow-origin']).toBeUndefined();
    expect(headers['cross-origin-resource-policy']).toBe('same-origin');
    expect(headers['referrer-policy']).toBe('no-referrer');
    expect(headers['x-content-type-options']).toBe('nosniff');
    expect(headers['cache-control']).toBe('no-store');
  });
});

describe('"check Origin on the WebSocket"', () => {
  it('opens for our own page', async () => {
    expect(await upgraded(socketUrl(), origin())).toBe(101);
    expect(
      await upgraded(
        new URL(socketUrl().href.replace('127.0.0.1', 'localhost')),
        origin().replace('127.0.0.1', 'localhost'),
      ),
    ).toBe(101);
  });

  it.each([
    'http://evil.example',
    'null',
    'https://127.0.0.1:PORT',
    'http://127.0.0.1:1',
    'http://localhost:PORT',
    undefined,
  ])('403 for the origin %s', async (from) => {
    expect(await upgraded(socketUrl(), from?.replace('PORT', String(port())))).toBe(403);
    expect(clients.size).toBe(0);
  });

  it.each(['/socket', '/wrong/socket', '/TOKEN/page.js', '/TOKEN/socket/'])('404 for %s', async (path) => {
    const token = new URL(server.url).pathname.split('/')[1] ?? '';
    expect(await upgraded(new URL(path.replace('TOKEN', token), socketUrl()), origin())).toBe(404);
  });

  it('503 for a ninth page', async () => {
    const open = await Promise.all(Array.from({ length: 8 }, () => ExplorerClient.open(server.url)));
    expect(await upgraded(socketUrl(), origin())).toBe(503);
    for (const client of open) client[Symbol.dispose]();
  });
});

describe('what a page says', () => {
  it('is handed on when it is a request, and ends the page when it is not', async () => {
    using client = await ExplorerClient.open(server.url);
    await client.next('notice', ({ text }) => text === 'welcome', 0);
    client.send({ type: 'pause' });
    client.raw(JSON.stringify({ type: 'format-disk' }));
    client.send({ type: 'resume' });
    expect(await client.closed).toBe(1008);
    expect(requests).toEqual([{ type: 'pause' }]);
    await client.until(() => clients.size === 0, 'the end of the page');
  });

  it('ends the page when it is binary, or too long', async () => {
    using binary = await ExplorerClient.open(server.url);
    binary.raw(Buffer.from(JSON.stringify({ type: 'pause' })));
    expect(await binary.closed).toBe(1008);
    using long = await ExplorerClient.open(server.url);
    long.raw('x'.repeat(REQUEST_BYTES_MAX + 1));
    expect(await long.closed).toBe(1009);
    expect(requests).toEqual([]);
  });

  it('is no HTTP: the peer is let go, and the others stay', async () => {
    using client = await ExplorerClient.open(server.url);
    const socket = connect(port(), '127.0.0.1');
    socket.write('\x00\x01\x02 what?\r\n\r\n');
    await once(socket, 'close');
    client.send({ type: 'pause' });
    await client.until(() => requests.length === 1, 'the request');
  });
});

describe('close', () => {
  it('says goodbye to the pages, even to one that does not read', async () => {
    using client = await ExplorerClient.open(server.url);
    const token = new URL(server.url).pathname.split('/')[1] ?? '';
    const deaf = connect(port(), '127.0.0.1');
    deaf.on('error', () => undefined);
    deaf.write(
      `GET /${token}/socket HTTP/1.1\r\nHost: 127.0.0.1:${port()}\r\nOrigin: ${origin()}\r\nConnection: Upgrade\r\n` +
        'Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n',
    );
    while (clients.size < 2) await new Promise((resolve) => setTimeout(resolve, 5));
    deaf.pause();
    await server.close();
    expect(await client.closed).toBe(1001);
    deaf.destroy();
    server = await servePage(0, { onOpen: () => {}, onRequest: () => {}, onClose: () => {} });
  });

  it('names a port that cannot be had', async () => {
    await expect(servePage(port(), { onOpen: () => {}, onRequest: () => {}, onClose: () => {} })).rejects.toThrow(
      `the explorer cannot have port ${port()} of 127.0.0.1 (EADDRINUSE); something else listens there; choose another`,
    );
  });
});
