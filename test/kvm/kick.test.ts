// Kicks from another thread end KVM_RUN, whichever vCPU it is and whenever they come.
// KVM API 5 (immediate_exit), 4.10 (EINTR).
import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import { describe, expect, test } from 'vitest';
import { kick, type KickToken } from '../../src/kvm/kick.js';
import { KVM_RUN_OFFSET } from '../../src/kvm/kvm-run.js';
import { noKvm } from '../support/kvm.js';
import type { KickWorkerData } from './kick-worker.js';
import { microGuest, runToExit, type MicroGuest } from './micro-guest.js';

const SPIN = [0xeb, 0xfe];
const EINTR = 4;

interface Runner {
  readonly worker: Worker;
  readonly words: Int32Array<SharedArrayBuffer>;
  readonly tokens: readonly KickToken[];
}

async function startRunner(guest: MicroGuest, ids: readonly number[], leak = false): Promise<Runner> {
  const words = new Int32Array(new SharedArrayBuffer(64));
  const workerData: KickWorkerData = { vmFd: guest.vm.fd, ids, words, leak };
  const worker = new Worker(new URL('./kick-worker.js', import.meta.url), { workerData });
  const [tokens] = (await once(worker, 'message')) as [KickToken[]];
  return { worker, words, tokens };
}

async function untilRunning({ words }: Runner, index: number): Promise<void> {
  while (Atomics.load(words, 9) !== index + 1) await sleep(1);
}

describe.skipIf(noKvm)('kick', () => {
  test('it ends a spinning guest on another thread, each time', async () => {
    using guest = microGuest({ code: SPIN });
    const runner = await startRunner(guest, [1]);
    const [token = 0] = runner.tokens;
    for (let i = 0; i < 200; i++) {
      // A kick before the runner cleared the one before would be one with it: that is what the stop word is for.
      await untilRunning(runner, 0);
      const returns = Atomics.load(runner.words, 1);
      expect(kick(token)).toBe(true);
      expect(Atomics.wait(runner.words, 1, returns, 5000)).not.toBe('timed-out');
    }
    Atomics.store(runner.words, 0, 1);
    const done = once(runner.worker, 'message');
    kick(token);
    expect(await done).toEqual(['done']);
    await once(runner.worker, 'exit');
    expect(kick(token)).toBe(false);
  });

  // getrlimit(2), RLIMIT_SIGPENDING: "the limit on the number of signals that may be queued for the real user ID": another
  // process can have used it up. A kick that was a real-time signal was lost then, and its guest ran on for ever.
  test('it comes also when the user has as many signals pending as may be', async () => {
    using guest = microGuest({ code: SPIN });
    const runner = await startRunner(guest, [1]);
    const limit = (soft: string): unknown =>
      execFileSync('prlimit', ['--pid', String(process.pid), `--sigpending=${soft}:`]);
    const before = execFileSync('prlimit', [
      '--pid',
      String(process.pid),
      '--sigpending',
      '--noheadings',
      '-o',
      'SOFT',
    ]);
    await untilRunning(runner, 0);
    const returns = Atomics.load(runner.words, 1);
    limit('0');
    try {
      expect(kick(runner.tokens[0] ?? 0)).toBe(true);
      expect(Atomics.wait(runner.words, 1, returns, 5000)).not.toBe('timed-out');
    } finally {
      limit(before.toString().trim());
    }
    Atomics.store(runner.words, 0, 1);
    kick(runner.tokens[0] ?? 0);
    await once(runner.worker, 'exit');
  });

  test('two vCPUs on one thread are both kickable', async () => {
    using guest = microGuest({ code: SPIN });
    const runner = await startRunner(guest, [1, 2]);
    // Each kick returns the vCPU that it names, also while its thread is inside the other one.
    for (const index of [0, 1, 0, 1]) {
      await untilRunning(runner, index);
      kick(runner.tokens[index] ?? 0);
    }
    await untilRunning(runner, 0);
    const [, second = 0] = runner.tokens;
    const before = Atomics.load(runner.words, 2);
    // The thread spins in vCPU 0 now; a kick of vCPU 1 is not lost.
    kick(second);
    while (Atomics.load(runner.words, 2) === before) {
      kick(runner.tokens[0] ?? 0);
      await sleep(1);
    }
    Atomics.store(runner.words, 0, 1);
    for (const token of runner.tokens) kick(token);
    await once(runner.worker, 'exit');
    expect(runner.tokens.map((token) => kick(token))).toEqual([false, false]);
  });

  test('a kick before KVM_RUN makes it return at once', () => {
    using guest = microGuest({ code: SPIN });
    const token = guest.vcpu.becomeRunner();
    expect(guest.vcpu.becomeRunner()).toBe(token);
    expect(kick(token)).toBe(true);
    guest.vcpu.enter();
    expect(guest.vcpu.lastErrno[0]).toBe(EINTR);
    guest.vcpu.run.u8[KVM_RUN_OFFSET.immediate_exit] = 0;
  });

  test('nothing is sent to a runner that is gone, nor to its successor', () => {
    using guest = microGuest({ code: [0xf4] });
    const token = guest.vcpu.becomeRunner();
    guest.vcpu.close();
    expect(kick(token)).toBe(false);
    using next = guest.vm.createVcpu(1);
    const successor = next.becomeRunner();
    expect(successor).not.toBe(token);
    expect(kick(token)).toBe(false);
    expect(next.run.u8[KVM_RUN_OFFSET.immediate_exit]).toBe(0);
  });

  test.each([0, 1, 2 ** 40, 2 ** 53 - 1])('%d is no token: false', (token) => {
    expect(kick(token)).toBe(false);
  });

  test.each([-1, 0.5, Number.NaN, 2 ** 53, '1', undefined])('%s throws', (token) => {
    expect(() => kick(token as number)).toThrow(RangeError);
  });

  test('a thread that ends without closing its vCPU is deregistered', async () => {
    using guest = microGuest({ code: SPIN });
    const runner = await startRunner(guest, [1], true);
    const [token = 0] = runner.tokens;
    Atomics.store(runner.words, 0, 1);
    kick(token);
    await once(runner.worker, 'exit');
    expect(kick(token)).toBe(false);
  });

  test('"the signal that is blocked stays pending": a mask keeps the signal out, not immediate_exit', () => {
    using guest = microGuest({ code: [0xf4] });
    guest.vcpu.setSignalMask(Array.from({ length: 64 }, (_, i) => i + 1));
    const token = guest.vcpu.becomeRunner();
    kick(token);
    guest.vcpu.enter();
    expect(guest.vcpu.lastErrno[0]).toBe(EINTR);
    guest.vcpu.run.u8[KVM_RUN_OFFSET.immediate_exit] = 0;
    expect(runToExit(guest.vcpu)).toBe(5);
  });
});
