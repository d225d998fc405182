// Exit statistics: what is counted where, whose time it is, and what happens when the table of MMIO addresses is full.
// The documentation of src/vcpu/observe/statistics.ts; KVM API 5 for the exit reasons.
import { Worker } from 'node:worker_threads';
import { describe, expect, it } from 'vitest';
import { EXIT_REASONS, ExitStatistics } from '../../../src/vcpu/observe/statistics.js';

const KVM_EXIT_IO = 2;
const KVM_EXIT_HLT = 5;
const KVM_EXIT_MMIO = 6;

function fresh(): ExitStatistics {
  return new ExitStatistics(ExitStatistics.allocate());
}

describe('ExitStatistics', () => {
  it('is empty at first', () => {
    expect(fresh().report()).toEqual({
      entries: 0,
      interrupted: 0,
      cyclesInside: 0,
      reasons: [],
      ports: [],
      mmio: [],
      others: { count: 0, cycles: 0 },
    });
  });

  it('"one cell per exit reason, per port and direction"', () => {
    const statistics = fresh();
    statistics.port(0x3f8, 1);
    statistics.port(0x3f8, 1);
    statistics.port(0x3f8, 0);
    statistics.port(0xffff, 1);
    statistics.port(0, 0);
    statistics.reason(KVM_EXIT_HLT);
    const { ports, reasons } = statistics.report();
    expect(ports).toEqual([
      { port: 0, direction: 'in', count: 1, cycles: 0 },
      { port: 0x3f8, direction: 'in', count: 1, cycles: 0 },
      { port: 0x3f8, direction: 'out', count: 2, cycles: 0 },
      { port: 0xffff, direction: 'out', count: 1, cycles: 0 },
    ]);
    // "PIO and MMIO are summed from their rows."
    expect(reasons).toEqual([
      { reason: KVM_EXIT_IO, count: 5, cycles: 0 },
      { reason: KVM_EXIT_HLT, count: 1, cycles: 0 },
    ]);
  });

  it('reasons that no header knows yet share the last cell', () => {
    const statistics = fresh();
    for (const reason of [EXIT_REASONS - 1, EXIT_REASONS, 0xffff_ffff]) statistics.reason(reason);
    expect(statistics.report().reasons).toEqual([{ reason: EXIT_REASONS - 1, count: 3, cycles: 0 }]);
  });

  it('"cycles is the TSC time from the exit to the next entry: what handling it cost here"', () => {
    const statistics = fresh();
    statistics.entered(100, 150);
    statistics.port(0x80, 1);
    statistics.entered(157, 200); // 7 for the port
    statistics.mmio(0xd000_0000, 1);
    statistics.entered(211, 300); // 11 for the address
    statistics.interrupted();
    statistics.entered(1000, 1001); // A kick is no exit: its time is nobody's.
    statistics.port(0x80, 1);
    statistics.entered(1014, 1020); // 13 more for the port
    const { ports, mmio, reasons, cyclesInside, entries, interrupted } = statistics.report();
    expect(ports).toEqual([{ port: 0x80, direction: 'out', count: 2, cycles: 20 }]);
    expect(mmio).toEqual([{ address: 0xd000_0000, direction: 'write', count: 1, cycles: 11 }]);
    expect(reasons).toEqual([
      { reason: KVM_EXIT_IO, count: 2, cycles: 20 },
      { reason: KVM_EXIT_MMIO, count: 1, cycles: 11 },
    ]);
    expect(cyclesInside).toBe(50 + 43 + 89 + 1 + 6);
    expect(entries).toBe(5);
    expect(statistics.entries).toBe(5);
    expect(interrupted).toBe(1);
  });

  it('reads and writes of an address are two rows; GPA 0 and those above 4 GiB are addresses like others', () => {
    const statistics = fresh();
    const addresses = [0, 4, 0xfee0_00b0, 0x1_0000_0000, 2 ** 46 + 8, 2 ** 52 - 4];
    for (const address of addresses) for (const direction of [0, 1, 1]) statistics.mmio(address, direction);
    const { mmio } = statistics.report();
    expect(mmio).toHaveLength(2 * addresses.length);
    for (const address of addresses) {
      expect(mmio).toContainEqual({ address, direction: 'read', count: 1, cycles: 0 });
      expect(mmio).toContainEqual({ address, direction: 'write', count: 2, cycles: 0 });
    }
  });

  it('"port and MMIO exits that found the table … full" are counted together: none is lost or given to another', () => {
    const statistics = fresh();
    // 4 bytes apart, as a device's registers are; a second round in the other order meets what the first one stored.
    const addresses = Array.from({ length: 6000 }, (_, i) => 0xd000_0000 + 4 * i);
    for (const address of addresses) statistics.mmio(address, 1);
    for (const address of addresses.toReversed()) statistics.mmio(address, 1);
    const { mmio, reasons, others } = statistics.report();
    expect(mmio.length).toBeGreaterThan(1024);
    expect(mmio.length).toBeLessThan(addresses.length);
    expect(new Set(mmio.map(({ address }) => address)).size).toBe(mmio.length);
    expect(addresses).toEqual(expect.arrayContaining(mmio.map(({ address }) => address)));
    for (const row of mmio) expect(row).toMatchObject({ direction: 'write', count: 2 });
    expect(others.count).toBe(2 * (addresses.length - mmio.length));
    expect(reasons).toEqual([{ reason: KVM_EXIT_MMIO, count: 2 * mmio.length, cycles: 0 }]);
  });

  it('time spent on an exit that found the table full goes to the others', () => {
    const statistics = fresh();
    for (let i = 0; i < 6000; i++) statistics.mmio(4 * i, 0);
    const before = statistics.report().mmio;
    for (let i = 0; i < 6000; i++)
      if (!before.some(({ address }) => address === 4 * i)) {
        statistics.entered(0, 0);
        statistics.mmio(4 * i, 0);
        statistics.entered(17, 20);
        break;
      }
    expect(statistics.report().others.cycles).toBe(17);
    expect(statistics.report().mmio).toEqual(before);
  });

  it('a port and an address of the same number are two', () => {
    const statistics = fresh();
    statistics.port(0x1000, 1);
    statistics.mmio(0x1000, 1);
    const { ports, mmio } = statistics.report();
    expect(ports).toEqual([{ port: 0x1000, direction: 'out', count: 1, cycles: 0 }]);
    expect(mmio).toEqual([{ address: 0x1000, direction: 'write', count: 1, cycles: 0 }]);
  });

  it('addresses that fall on the same cell are kept apart', () => {
    const statistics = fresh();
    const addresses = Array.from({ length: 64 }, (_, i) => i * 2 ** 20);
    for (const [i, address] of addresses.entries()) for (let n = 0; n <= i; n++) statistics.mmio(address, 1);
    const { mmio } = statistics.report();
    for (const [i, address] of addresses.entries())
      expect(mmio).toContainEqual({ address, direction: 'write', count: i + 1, cycles: 0 });
  });

  it('"written by one vCPU thread …, read by any thread at any time"', async () => {
    const statistics = fresh();
    const module = new URL('../../../src/vcpu/observe/statistics.js', import.meta.url).href;
    const code = `import { workerData } from 'node:worker_threads';
      const { ExitStatistics } = await import(workerData.module);
      const statistics = new ExitStatistics(workerData.buffer);
      statistics.entered(1, 2);
      statistics.port(0x42, 0);
      statistics.entered(5, 6);`;
    const worker = new Worker(new URL(`data:text/javascript,${encodeURIComponent(code)}`), {
      workerData: { module, buffer: statistics.buffer },
    });
    await new Promise((resolve, reject) => worker.once('exit', resolve).once('error', reject));
    expect(statistics.entries).toBe(2);
    expect(statistics.report().ports).toEqual([{ port: 0x42, direction: 'in', count: 1, cycles: 3 }]);
  });
});
