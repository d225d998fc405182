// Front and back on their own threads, as in a machine: the driver's thread waits in the front, the back answers.
// Hostile cases 10 and 16; VIRTIO 1.2 §2.4 (device reset), §4.2.2 (QueueReady).
import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import { describe, expect, test } from 'vitest';
import { RegisterFile } from '../../../../src/devices/register-file.js';
import type { DescriptorChain, VirtioDevice, Virtqueue } from '../../../../src/devices/virtio/device.js';
import { MmioBack } from '../../../../src/devices/virtio/mmio-back.js';
import { allocateMmioState } from '../../../../src/devices/virtio/mmio-state.js';
import { EventFd } from '../../../../src/kvm/event-fd.js';
import { GuestMemory } from '../../../../src/memory/guest-memory.js';
import { amount, isSoak } from '../../../support/soak.js';
import { TestDevice } from '../../../support/test-device.js';
import { DRIVING } from '../../../support/virtqueue-driver.js';
import type { DriverResult, DriverTask } from './driver-thread.js';

/** A host that takes its time: each chain's buffer is written, and given back, some turns of the event loop later. */
class SlowDevice extends TestDevice {
  inside = 0;

  override notify(index: number): void {
    const queue = this.link?.queue(index);
    queue?.each((chain) => this.#work(queue, chain, Math.floor(Math.random() * (Math.random() < 0.2 ? 100 : 4))));
  }

  #work(queue: Virtqueue, chain: DescriptorChain, turns: number): void {
    this.inside++;
    const step = (): void => {
      chain.writable.fill(0x11);
      if (turns-- > 0) setImmediate(step);
      else {
        this.inside--;
        queue.push(chain, chain.writable.bytes);
        queue.flush();
      }
    };
    setImmediate(step);
  }
}

interface Run {
  readonly back: MmioBack;
  readonly warnings: readonly string[];
  readonly result: Promise<DriverResult>;
  readonly stop: () => void;
}

async function withDriver(
  device: VirtioDevice,
  task: Pick<DriverTask, 'mode'> & Partial<DriverTask>,
  action: (run: Run) => Promise<void>,
): Promise<void> {
  const registers = RegisterFile.create(1 << 16);
  const memory = GuestMemory.create(2 << 20);
  const { offer } = device;
  const state = allocateMmioState(registers, offer);
  using control = EventFd.create();
  const doorbells = offer.queueSizes.map(() => EventFd.create());
  const warnings: string[] = [];
  const back = new MmioBack(device, state, {
    memory,
    control,
    doorbells,
    irq: { pulse: () => undefined },
    warn: (message) => warnings.push(message),
  });
  const stop = new SharedArrayBuffer(4);
  const workerData: DriverTask = {
    registers: registers.share(),
    memory: memory.share(),
    offer,
    controlFd: control.fd,
    doorbellFds: doorbells.map((bell) => bell.fd),
    stop,
    waits: true,
    rounds: 1,
    milliseconds: 0,
    ...task,
  };
  const worker = new Worker(new URL('./driver-thread.js', import.meta.url), { workerData });
  const ended = once(worker, 'exit');
  const result = once(worker, 'message').then(([message]) => message as DriverResult);
  try {
    await action({ back, warnings, result, stop: () => Atomics.store(new Int32Array(stop), 0, 1) });
  } finally {
    Atomics.store(new Int32Array(stop), 0, 1);
    await ended;
    await back.close();
    for (const bell of doorbells) bell.close();
  }
}

const slow = (): SlowDevice => new SlowDevice({ queueSizes: [8, 8] });

describe('16. "once the reset returned, nothing of any kind is written into guest RAM"', () => {
  const rounds = 1000;
  const milliseconds = amount(0, 60_000);

  test.each(['Status', 'QueueReady'] as const)(
    `%s := 0 with I/O in flight, ${rounds} times (in a soak: for a minute), the memory being somebody else's right after`,
    { timeout: 300_000 },
    async (mode) => {
      const device = slow();
      await withDriver(device, { mode, rounds, milliseconds }, async ({ back, result, warnings }) => {
        const { violations, status, rounds: done } = await result;
        expect({ violations, status }).toEqual({ violations: 0, status: 0 });
        expect(device.inside).toBe(0);
        expect(warnings).toEqual([]);
        expect(back.report()).toMatchObject({ resets: done, needsReset: 0 });
        expect(back.report().chains).toBeGreaterThan(rounds);
      });
    },
  );

  test.each(['Status', 'QueueReady'] as const)(
    'a front that does not wait for %s := 0 fails this test',
    async (mode) => {
      await withDriver(slow(), { mode, rounds: 20_000, waits: false }, async ({ result }) => {
        expect((await result).violations).toBeGreaterThan(0);
      });
    },
  );

  test('a machine that ends meanwhile: the thread that waits is let go, and the close waits for the host', async () => {
    const device = new TestDevice({ queueSizes: [8, 8] });
    device.holds = true;
    await withDriver(device, { mode: 'Status', rounds: 1_000_000 }, async ({ back, result, stop }) => {
      // A reset can come before the device has taken anything; sooner or later one has to wait.
      while (device.held.length === 0 || device.calls.at(-1) !== 'cancel') await sleep(1);
      stop();
      expect((await result).status).toBe(DRIVING);
      let isClosed = false;
      const closed = back.close().then(() => (isClosed = true));
      await sleep(20);
      expect(isClosed).toBe(false);
      device.finish();
      await closed;
    });
  });
});

describe('10. "a kick storm of 10^6/s … for queue 0xffffffff → bounded CPU; event-loop lag p99 < 50 ms; the API answers"', () => {
  test('the event loop turns, timers run, and there are no more notifications than turns', async () => {
    const device = new TestDevice({ queueSizes: [8, 8] });
    const milliseconds = amount(300, 10_000);
    await withDriver(device, { mode: 'storm', milliseconds }, async ({ back, result, warnings }) => {
      const over = new AbortController();
      void result.then(() => over.abort());
      const lags: number[] = [];
      while (!over.signal.aborted) {
        const before = performance.now();
        await sleep(1);
        lags.push(performance.now() - before - 1);
      }
      const { rounds } = await result;
      const { kicks } = back.report();
      expect(kicks).toBeGreaterThan(1);
      expect(kicks).toBeLessThanOrEqual(rounds * 2000);
      expect(device.calls.length).toBeLessThanOrEqual(kicks + 10);
      expect(warnings).toEqual([]);
      expect(lags.length).toBeGreaterThan(3);
      const p99 = lags.toSorted((a, b) => a - b)[Math.floor(lags.length * 0.99)] ?? 0;
      if (isSoak) expect(p99, `${(rounds * 3000) / milliseconds} kicks per ms`).toBeLessThan(50);
    });
  });
});
