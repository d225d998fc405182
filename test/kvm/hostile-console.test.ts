// What a hostile driver of the console does, by guests on the real KVM: hostile cases 25 to 27, and buffers that are none.
// VIRTIO 1.2 §5.3.6.
import { describe, expect, test } from 'vitest';
import { VirtioConsole } from '../../src/devices/virtio/console.js';
import { noKvm } from '../support/kvm.js';
import { REG, type MockBuffer, type MockQueue } from '../support/virtqueue-driver.js';
import { begin, DATA, layOut, withGuest } from './hostile-guest.js';

const [RECEIVE, TRANSMIT] = [0, 1];
const QUEUES = 0x10_0000;
const COUNTER = 0x1f_0000;

describe.skipIf(noKvm)('a hostile driver of a console', () => {
  test('27. "escapes, NUL, invalid or split UTF-8 → byte-exact; never raw in our own log", in buffers of 0 bytes and of all', async () => {
    const device = new VirtioConsole();
    const printed: Uint8Array[] = [];
    device.onOutput((bytes) => void printed.push(bytes));
    await withGuest(device, async ({ vm, script, hands, warnings, run }) => {
      const text = Buffer.from([
        ...Buffer.from('\u001b[2J\u001b]0;evil\u0007'),
        0,
        0xff,
        0xc3,
        ...Uint8Array.from({ length: 256 }).keys(),
      ]);
      vm.memory.write(DATA, text);
      const queues = [RECEIVE, TRANSMIT].map((index) => layOut(hands, QUEUES + 0x1000 * index, index));
      const transmit = queues[TRANSMIT] as MockQueue;
      const chains: readonly (readonly MockBuffer[])[] = [
        [{ gpa: DATA, length: 0 }],
        // Nothing to print in what the device may write: VIRTIO 1.2 §5.3.6.2.
        [{ gpa: DATA, length: 100, writable: true }],
        [
          { gpa: DATA, length: 1 },
          { gpa: 0xd000_0000, length: 0 },
          { gpa: DATA + 1, length: text.length - 1 },
        ],
      ];
      const heads = chains.map((buffers) => transmit.build(buffers));
      for (const head of heads) transmit.publish(head);
      begin(hands, queues);
      hands.write(REG.QueueNotify, TRANSMIT);
      script.add('wait16', transmit.used + 2, chains.length);
      await run();
      expect(heads.map(() => transmit.takeUsed())).toEqual(heads.map((id) => ({ id, length: 0 })));
      expect(Buffer.concat(printed)).toEqual(text);
      expect(warnings).toEqual([]);
    });
  });

  test('25. "printed with the reader stopped → memory grows by at most 16 MiB": the buffers stay with the device, then all come', async () => {
    const device = new VirtioConsole();
    let printed = 0;
    let isStopped = false;
    device.onOutput((bytes) => {
      printed += bytes.length;
      if (isStopped || printed < 100_000) return;
      isStopped = true;
      device.pause();
      setTimeout(() => device.resume(), 100);
    });
    await withGuest(device, async ({ vm, script, hands, run }) => {
      const ROUNDS = 200;
      const LENGTH = 4096;
      const queues = [RECEIVE, TRANSMIT].map((index) => layOut(hands, QUEUES + 0x1000 * index, index));
      const transmit = queues[TRANSMIT] as MockQueue;
      const head = transmit.build([{ gpa: 0, length: LENGTH }]);
      for (let i = 0; i < transmit.size; i++) vm.memory.writeU16(transmit.avail + 4 + 2 * i, head);
      begin(hands, queues);
      script.loop(ROUNDS, COUNTER, () => {
        script.add('add16', transmit.avail + 2, 1);
        hands.write(REG.QueueNotify, TRANSMIT);
        script.add('waitSame', transmit.used + 2, transmit.avail + 2);
      });
      await run();
      expect(isStopped).toBe(true);
      expect(printed).toBe(ROUNDS * LENGTH);
    });
  });

  test('26. "input with the guest not reading → back-pressure": no more is taken than the guest has buffers for', async () => {
    const device = new VirtioConsole();
    let taken = 0;
    const input = Buffer.alloc(1 << 20, 0x41);
    await withGuest(device, async ({ script, hands, run }) => {
      const queues = [RECEIVE, TRANSMIT].map((index) => layOut(hands, QUEUES + 0x1000 * index, index));
      const receive = queues[RECEIVE] as MockQueue;
      for (let i = 0; i < receive.size; i++)
        receive.publish(receive.build([{ gpa: DATA + 100 * i, length: 100, writable: true }]));
      begin(hands, queues);
      hands.write(REG.QueueNotify, RECEIVE);
      const writing = setInterval(() => (taken += device.write(input)), 1);
      script.add('wait16', receive.used + 2, receive.size);
      await run().finally(() => clearInterval(writing));
      expect(taken).toBe(100 * receive.size);
      expect(receive.takeUsed()).toEqual({ id: expect.any(Number) as number, length: 100 });
    });
  });
});
