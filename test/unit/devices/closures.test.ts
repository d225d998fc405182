// Closures on the owner's thread: accesses of several vCPU threads through their mailboxes, and what ends the waiting.
// Design: "its exits are forwarded to the owner thread through a mailbox, and the waiting vCPU wakes on stop and pause".
import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import { describe, expect, test } from 'vitest';
import type { IoHandler } from '../../../src/devices/bus.js';
import { ClosureBack } from '../../../src/devices/closure-back.js';
import { allocateMailboxes } from '../../../src/devices/closure-mailbox.js';
import { RegisterFile } from '../../../src/devices/register-file.js';
import { EventFd } from '../../../src/kvm/event-fd.js';
import type { Access, ClosureTask } from './closure-thread.js';

interface Kit {
  readonly back: ClosureBack;
  readonly failures: string[];
  /** Answers of a thread that makes these accesses. */
  readonly run: (cpu: number, accesses: readonly Access[]) => Promise<readonly (number | undefined)[]>;
  /** What the command word does for a vCPU thread. */
  readonly stop: () => void;
}

async function withKit(
  devices: readonly IoHandler[],
  cpus: number,
  action: (kit: Kit) => Promise<void>,
): Promise<void> {
  const registers = RegisterFile.create(1 << 16);
  const mailboxes = allocateMailboxes(registers, cpus);
  using bell = EventFd.create();
  const failures: string[] = [];
  const back = new ClosureBack(devices, { mailboxes, bell, onFailure: (message) => failures.push(message) });
  const stop = new SharedArrayBuffer(4);
  const run = async (cpu: number, accesses: readonly Access[]): Promise<readonly (number | undefined)[]> => {
    const workerData = {
      registers: registers.share(),
      cpus,
      cpu,
      bellFd: bell.fd,
      stop,
      accesses,
    } satisfies ClosureTask;
    const worker = new Worker(new URL('./closure-thread.js', import.meta.url), { workerData });
    // Listened for at once: a thread's last message and its exit may come in one go.
    const [[answers]] = (await Promise.all([once(worker, 'message'), once(worker, 'exit')])) as [
      [readonly (number | undefined)[]],
      unknown,
    ];
    return answers;
  };
  try {
    await action({ back, failures, run, stop: () => Atomics.store(new Int32Array(stop), 0, 1) });
  } finally {
    back.close();
  }
}

const quiet = { read: () => 0, write: () => undefined };
const READ: Access = { device: 0, offset: 4, size: 2 };

describe('closures', () => {
  test('three vCPUs at once: each gets its own answers, and every write arrives once, in its order', async () => {
    const written: number[][] = [[], [], []];
    const sum: IoHandler = { name: 'sum', read: (offset, size) => offset * 16 + size, write: () => undefined };
    const log: IoHandler = {
      name: 'log',
      read: () => 0xffff_fff0,
      write: (offset, _size, value) => written[offset]?.push(value),
    };
    await withKit([sum, log], 3, async ({ run, failures }) => {
      const counts = Array.from({ length: 400 }, (_, i) => i);
      const answers = await Promise.all(
        [0, 1, 2].map((cpu) =>
          run(
            cpu,
            counts.flatMap((i) => [
              { device: 0, offset: (i * 3 + cpu) % 4096, size: 1 << (i % 3) },
              { device: 1, offset: cpu, size: 4, value: i },
              { device: 1, offset: 0, size: 4 },
            ]),
          ),
        ),
      );
      for (const cpu of [0, 1, 2]) {
        expect(failures).toEqual([]);
        const expected = counts.flatMap((i) => {
          const size = 1 << (i % 3);
          const answer = ((i * 3 + cpu) % 4096) * 16 + size;
          return [size === 1 ? answer & 0xff : answer, undefined, 0xffff_fff0];
        });
        expect(answers[cpu]).toEqual(expected);
        expect(written[cpu]).toEqual(counts);
      }
      expect(failures).toEqual([]);
    });
  });

  test.each<[string, Partial<IoHandler>, Access, string]>([
    [
      'throws in a read',
      {
        read() {
          throw new RangeError('beyond the tape');
        },
      },
      READ,
      'device tape failed in a 2-byte read at offset 0x4: RangeError: beyond the tape',
    ],
    [
      'throws in a write, and no error',
      {
        write() {
          throw 'torn'; // a user's JavaScript may
        },
      },
      { device: 0, offset: 0, size: 1, value: 0x41 },
      'device tape failed in a 1-byte write of 0x41 at offset 0x0: torn',
    ],
    ['gives nothing', { read: (() => undefined) as never }, READ, 'undefined, and a number is needed'],
    ['gives NaN', { read: () => Number.NaN }, READ, 'it gave NaN, and a number is needed'],
    ['is async', { read: (async () => 5) as never }, READ, 'it must not be async'],
    [
      'is async, writes, and rejects',
      {
        write: async () => {
          throw new Error('nobody hears this');
        },
      },
      { ...READ, value: 1 },
      'it must not be async',
    ],
  ])('one that %s fails its machine once, and its vCPU waits for the stop', async (_, closures, access, sentence) => {
    await withKit([{ name: 'tape', ...quiet, ...closures }], 1, async ({ run, failures, stop }) => {
      const answers = run(0, [access, { ...access, offset: 5 }]);
      while (failures.length === 0) await sleep(1);
      expect(failures).toHaveLength(1);
      expect(failures[0]).toContain(sentence);
      stop();
      const ones = access.value === undefined ? 0xffff : undefined;
      expect(await answers).toEqual([ones, ones]);
      expect(failures).toHaveLength(1);
    });
  });

  test('after close no closure is called, and a stop ends the wait', async () => {
    let calls = 0;
    await withKit([{ ...quiet, name: 'late', read: () => ++calls }], 1, async ({ back, run, stop }) => {
      back.close();
      const answers = run(0, [READ]);
      await sleep(50);
      stop();
      expect(await answers).toEqual([0xffff]);
      expect(calls).toBe(0);
    });
  });
});
