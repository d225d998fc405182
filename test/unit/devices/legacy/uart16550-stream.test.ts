// Bytes through the UART, between two threads with a real eventfd: exact under back-pressure, counted when dropped.
import { createHash, randomBytes } from 'node:crypto';
import { Worker } from 'node:worker_threads';
import { describe, expect, test } from 'vitest';
import { RegisterFile } from '../../../../src/devices/register-file.js';
import { EventFd } from '../../../../src/kvm/event-fd.js';
import { UartBack } from '../../../../src/devices/legacy/uart16550-back.js';
import { allocateUart, type UartOptions } from '../../../../src/devices/legacy/uart16550-state.js';
import { makeKit, R } from './uart-kit.js';
import type { GuestTask } from './uart-guest.js';

const MIB = 1 << 20;
const sha = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');

/** A guest on a thread of its own, its interrupts, and the owner's half here. */
function startGuest(options: UartOptions, task: Pick<GuestTask, 'role' | 'bytes'>) {
  const registers = RegisterFile.create(1 << 20);
  const state = allocateUart(registers, options);
  registers.seal();
  const interrupts = new Int32Array(new SharedArrayBuffer(4));
  const irq = {
    pulse: () => {
      Atomics.add(interrupts, 0, 1);
      Atomics.notify(interrupts, 0);
    },
  };
  const bell = EventFd.create();
  const workerData: GuestTask = { ...task, registers: registers.share(), interrupts, options, bellFd: bell.fd };
  const worker = new Worker(new URL('uart-guest.js', import.meta.url), { workerData });
  const result = new Promise<string>((resolve, reject) => worker.once('message', resolve).once('error', reject));
  const back = new UartBack(state, options, { irq, bell });
  // The worker has adopted the eventfd once it has answered.
  const stop = (): void => {
    back.close();
    bell.close();
  };
  return { back, result, stop };
}

describe('guest to host', () => {
  test('onFull wait: "a driver that honours THRE loses nothing": 1 MiB to a slow consumer, by interrupts', async () => {
    const bytes = randomBytes(MIB);
    const options: UartOptions = { name: 'COM2', onFull: 'wait', flowControl: 'rts', txCapacity: 8192 };
    const guest = startGuest(options, { role: 'send', bytes });
    const chunks: Uint8Array[] = [];
    guest.back.onOutput((chunk) => {
      chunks.push(chunk);
      // The taker is behind: nothing is drained for a while, the ring fills, the guest must wait.
      if (chunks.length % 8 === 0) {
        guest.back.pause();
        setTimeout(() => guest.back.resume(), 4);
      }
    });
    expect(await guest.result).toBe('done');
    guest.stop();
    const output = Buffer.concat(chunks);
    expect([output.length, sha(output), guest.back.lostBytes]).toEqual([MIB, sha(bytes), 0]);
  });

  test('onFull drop: "loses the byte and counts it in TX_LOST, the guest never waits"', () => {
    const kit = makeKit({ txCapacity: 32 });
    const { back, output } = kit.back();
    back.pause();
    for (let i = 0; i < 100; i++) {
      expect(kit.in(R.LSR) & 0x60).toBe(0x60);
      kit.out(R.THR, i);
    }
    expect(back.lostBytes).toBe(68);
    back.drain();
    expect(output).toEqual(Array.from({ length: 32 }, (_, i) => i));
    back.close();
  });

  test('onFull wait: "keeps THRE and TEMT at 0 until the owner has drained", and the owner raises the withheld interrupt', () => {
    const kit = makeKit({ onFull: 'wait', txCapacity: 32 });
    const { back } = kit.back();
    back.pause();
    kit.out(R.FCR, 0x01);
    kit.out(R.IER, 0x02);
    for (let i = 0; i < 16; i++) kit.out(R.THR, i);
    expect([kit.in(R.LSR), kit.in(R.IIR)]).toEqual([0x60, 0xc2]);
    expect(kit.pulses(() => kit.out(R.THR, 16))).toBe(0);
    expect([kit.in(R.LSR), kit.in(R.IIR)]).toEqual([0x00, 0xc1]);
    expect(kit.pulses(() => back.drain())).toBe(1);
    expect([kit.in(R.LSR), kit.in(R.IIR), kit.in(R.IIR)]).toEqual([0x60, 0xc2, 0xc1]);
    // Enabled only while the transmitter is busy: the interrupt comes later, too.
    kit.out(R.IER, 0);
    for (let i = 0; i < 20; i++) kit.out(R.THR, i);
    expect(kit.pulses(() => kit.out(R.IER, 0x02))).toBe(0);
    expect(kit.pulses(() => back.drain())).toBe(1);
    back.close();
  });

  test('"the first byte after a silence rings the bell and is delivered at once"; the next ones ring no more', async () => {
    const kit = makeKit();
    const { back, output } = kit.back();
    kit.out(R.THR, 1);
    expect([kit.rings, ...output]).toEqual([1, 1]);
    for (let i = 2; i <= 200; i++) kit.out(R.THR, i);
    expect(kit.rings).toBe(1);
    while (output.length < 200) await new Promise((resolve) => setTimeout(resolve, 1));
    // After a silence the owner sleeps again.
    while (kit.state.fields.OWNER_ASLEEP.get() === 0) await new Promise((resolve) => setTimeout(resolve, 1));
    kit.out(R.THR, 201);
    expect([kit.rings, output.at(-1)]).toEqual([2, 201]);
    back.close();
  });

  test('"Once all vCPUs have stopped, one call delivers every byte that is left"', () => {
    const kit = makeKit();
    const { back, output } = kit.back();
    back.pause();
    const sent = Array.from({ length: 50_000 }, (_, i) => i & 0xff);
    for (const byte of sent) kit.out(R.THR, byte);
    back.close();
    expect(output).toEqual(sent);
  });
});

describe('host to guest', () => {
  test('256 KiB by interrupts, through a ring of 1 KiB: exact', async () => {
    const bytes = randomBytes(MIB / 4);
    const options: UartOptions = { name: 'COM2', onFull: 'wait', flowControl: 'rts', rxCapacity: 1024 };
    const guest = startGuest(options, { role: 'receive', bytes: new Uint8Array(bytes.length) });
    let sent = 0;
    const feed = (): void => {
      while (sent < bytes.length) {
        const accepted = guest.back.write(bytes.subarray(sent, sent + 3000));
        sent += accepted;
        if (accepted === 0) return;
      }
    };
    guest.back.onWritable(feed);
    feed();
    expect(await guest.result).toBe(sha(bytes));
    guest.stop();
  });

  test('"`write` takes what fits; when that was not all, `onWritable` tells when half of the ring is free"', () => {
    const kit = makeKit({ rxCapacity: 64 });
    const { back } = kit.back();
    let writable = 0;
    back.onWritable(() => writable++);
    expect([back.write(new Uint8Array(100)), back.write(new Uint8Array(1))]).toEqual([64, 0]);
    for (let i = 0; i < 31; i++) kit.in(R.RBR);
    expect([writable, kit.rings]).toEqual([0, 0]);
    kit.in(R.RBR);
    expect([writable, kit.rings]).toEqual([1, 1]);
    for (let i = 0; i < 40; i++) kit.in(R.RBR);
    expect([writable, kit.rings]).toEqual([1, 1]);
    back.close();
  });
});
