// eventfds between kernel, threads and the event loop.
// eventfd(2).
import { spawnSync } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import { describe, expect, test } from 'vitest';
import { EventFd } from '../../../src/kvm/event-fd.js';

const openFds = (): number => readdirSync('/proc/self/fd').length;
const moduleUrl = new URL('../../../src/kvm/event-fd.js', import.meta.url).href;

describe('the counter', () => {
  test('read() returns the sum of what was signalled and leaves 0', () => {
    using event = EventFd.create(3);
    event.signal();
    event.signal(7n);
    expect(event.read()).toBe(11n);
    expect(event.read()).toBeUndefined();
  });

  test('a full counter stays as it is', () => {
    using event = EventFd.create();
    event.signal(2n ** 64n - 2n);
    event.signal();
    event.signal(5n);
    expect(event.read()).toBe(2n ** 64n - 2n);
  });

  test.each([-1, 0.5, Number.NaN, 2 ** 32, '1', 1n])('%s is no initial value', (initial) => {
    expect(() => EventFd.create(initial as number)).toThrow(RangeError);
  });

  test.each([-1n, 2n ** 64n - 1n, 2n ** 64n, 1, '1'])('%s is no count', (count) => {
    using event = EventFd.create();
    expect(() => event.signal(count as bigint)).toThrow(RangeError);
  });
});

describe('descriptors', () => {
  test('adopt() gives the same counter', () => {
    using event = EventFd.create();
    using other = EventFd.adopt(event.fd);
    expect(other.fd).not.toBe(event.fd);
    other.signal();
    expect(event.read()).toBe(1n);
  });

  test('adopt() refuses what is no eventfd', () => {
    expect(() => EventFd.adopt(0)).toThrow(/adopt on eventfd 0: EINVAL/);
    expect(() => EventFd.adopt(99_999)).toThrow(/adopt on eventfd 99999: EBADF/);
    for (const fd of [-1, 2 ** 31, Number.NaN, '0']) expect(() => EventFd.adopt(fd as number)).toThrow(RangeError);
  });

  test('every use of a closed one throws, and so does a second close', () => {
    const event = EventFd.create();
    event.close();
    for (const use of [
      () => event.close(),
      () => event.fd,
      () => event.signal(),
      () => event.signal(1n),
      () => event.read(),
      () => event.onReadable(() => undefined),
    ])
      expect(use).toThrow('the handle is closed');
    expect(() => event[Symbol.dispose]()).not.toThrow();
  });

  test('a child process does not inherit them', () => {
    using event = EventFd.create();
    const { stdout } = spawnSync('ls', ['-l', '/proc/self/fd'], { encoding: 'utf8' });
    expect(stdout).not.toContain('eventfd');
    expect(event.fd).toBeGreaterThan(2);
  });
});

describe('onReadable', () => {
  test('the counter is taken before the callback', async () => {
    using event = EventFd.create();
    const seen = await new Promise<bigint | undefined>((resolve) => {
      event.onReadable(() => resolve(event.read()));
      event.signal(5n);
    });
    expect(seen).toBeUndefined();
  });

  test('each signal after a callback brings another one', async () => {
    using event = EventFd.create();
    const calls: number[] = [];
    event.onReadable(() => {
      if (calls.push(calls.length) < 100) event.signal();
    });
    event.signal();
    while (calls.length < 100) await sleep(1);
    await sleep(10);
    expect(calls.length).toBe(100);
  });

  test('promises settle between callbacks', async () => {
    using event = EventFd.create();
    const order: string[] = [];
    const done = new Promise<void>((resolve) => {
      event.onReadable(() => {
        void Promise.resolve().then(() => {
          order.push('microtask');
          resolve();
        });
        order.push('callback');
      });
    });
    event.signal();
    await done;
    expect(order).toEqual(['callback', 'microtask']);
  });

  test('a closed watcher, and a closed eventfd, call no more', async () => {
    using first = EventFd.create();
    const second = EventFd.create();
    using other = EventFd.adopt(second.fd);
    let calls = 0;
    const watcher = first.onReadable(() => calls++);
    second.onReadable(() => calls++);
    first.signal();
    other.signal();
    watcher.close();
    watcher.close();
    watcher.ref();
    watcher.unref();
    second.close();
    await sleep(10);
    expect(calls).toBe(0);
    expect(first.read()).toBe(1n);
  });

  test('a watcher may close itself and its eventfd in its callback', async () => {
    const event = EventFd.create();
    await new Promise<void>((resolve) => {
      const watcher = event.onReadable(() => {
        watcher.close();
        event.close();
        resolve();
      });
      event.signal();
    });
  });

  test('watchers leave no descriptor behind', async () => {
    await sleep(10);
    const before = openFds();
    for (let i = 0; i < 50; i++) {
      using event = EventFd.create();
      event.onReadable(() => undefined);
    }
    await sleep(10);
    expect(openFds()).toBe(before);
  });

  test("it keeps the process alive until it is unref'd, and what it throws is an uncaughtException", () => {
    const run = (body: string): { status: number | null; stdout: string } =>
      spawnSync(process.execPath, ['--input-type=module', '-e', `import { EventFd } from '${moduleUrl}'; ${body}`], {
        encoding: 'utf8',
        timeout: 20_000,
      });
    expect(run('EventFd.create().onReadable(() => 0).unref();').status).toBe(0);
    const kept = run(
      "const e = EventFd.create(); e.onReadable(() => { process.stdout.write('called'); process.exit(3); }); setTimeout(() => e.signal(), 50).unref();",
    );
    expect(kept).toMatchObject({ status: 3, stdout: 'called' });
    const thrown = run(
      "process.on('uncaughtException', (e) => { process.stdout.write(e.message); process.exit(4); }); const e = EventFd.create(1); e.onReadable(() => { throw new Error('boom'); });",
    );
    expect(thrown).toMatchObject({ status: 4, stdout: 'boom' });
  });

  test('a worker that ends, or is terminated, with open watchers is clean', async () => {
    const body = `import('${moduleUrl}').then(({ EventFd }) => {
      const { parentPort, workerData } = require('node:worker_threads');
      globalThis.events = Array.from({ length: 5 }, () => EventFd.create());
      for (const event of events) event.onReadable(() => event.signal());
      for (const event of events) event.signal();
      if (workerData === 'exit') process.exit(0);
      parentPort.postMessage('ready');
    });`;
    const run = async (how: string): Promise<void> => {
      const worker = new Worker(body, { eval: true, workerData: how });
      const ended = new Promise<void>((resolve) => worker.once('exit', () => resolve()));
      if (how === 'terminate') {
        await new Promise<void>((resolve) => worker.once('message', () => resolve()));
        await worker.terminate();
      }
      await ended;
    };
    await run('terminate');
    const before = openFds();
    for (let i = 0; i < 5; i++) {
      await run('terminate');
      await run('exit');
    }
    expect(openFds()).toBe(before);
  });
});
