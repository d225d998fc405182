// Exit statistics: what is counted where, whose time it is, and what happens when the table of MMIO addresses is full.
// The documentation of src/vcpu/observe/statistics.ts; KVM API 5 for the exit reasons.
import { Worker } from 'node:worker_threads';
import { describe, expect, it } from 'vitest';
import type { ExitCounter } from '../../../src/vcpu/observe/exit-counter.js';
import { STATISTICS_LAYOUT } from '../../../src/vcpu/observe/statistics-layout.js';
import { ExitStatistics } from '../../../src/vcpu/observe/statistics.js';

const KVM_EXIT_IO = 2;
const KVM_EXIT_HLT = 5;
const KVM_EXIT_MMIO = 6;

const EXIT_REASONS = STATISTICS_LAYOUT.reasons;

interface Fresh {
  readonly statistics: ExitStatistics;
  readonly counter: ExitCounter;
  /** counter.timed() after a KVM_RUN with these stamps. */
  readonly timed: (entry: number, exit: number) => number;
}

function fresh(): Fresh {
  const statistics = new ExitStatistics(ExitStatistics.allocate());
  const stamps = new Float64Array(2);
  const counter = statistics.counter(stamps);
  const timed = (entry: number, exit: number): number => {
    stamps.set([entry, exit]);
    return counter.timed();
  };
  return { statistics, counter, timed };
}

/** What stands in a row beside where it was. */
const row = (count: number, timed = 0, cycles = 0): object => ({ count, timed, cycles });

describe('ExitStatistics', () => {
  it('is empty at first', () => {
    expect(fresh().statistics.report()).toEqual({
      entries: 0,
      interrupted: 0,
      cyclesInside: 0,
      reasons: [],
      ports: [],
      mmio: [],
      others: row(0),
    });
  });

  it('"one cell per exit reason, per port and direction"', () => {
    const { statistics, counter } = fresh();
    counter.portOut(0x3f8);
    counter.portOut(0x3f8);
    counter.portIn(0x3f8);
    counter.portOut(0xffff);
    counter.portIn(0);
    counter.reason(KVM_EXIT_HLT);
    const { ports, reasons } = statistics.report();
    expect(ports).toEqual([
      { port: 0, direction: 'in', ...row(1) },
      { port: 0x3f8, direction: 'in', ...row(1) },
      { port: 0x3f8, direction: 'out', ...row(2) },
      { port: 0xffff, direction: 'out', ...row(1) },
    ]);
    // "PIO and MMIO are summed from their rows."
    expect(reasons).toEqual([
      { reason: KVM_EXIT_IO, ...row(5) },
      { reason: KVM_EXIT_HLT, ...row(1) },
    ]);
  });

  it('reasons that no header knows yet share the last cell', () => {
    const { statistics, counter } = fresh();
    for (const reason of [EXIT_REASONS - 1, EXIT_REASONS, 0xffff_ffff]) counter.reason(reason);
    expect(statistics.report().reasons).toEqual([{ reason: EXIT_REASONS - 1, ...row(3) }]);
  });

  it('"cycles is the TSC time from the exit to the next entry: what handling it cost here"', () => {
    const { statistics, counter, timed } = fresh();
    counter.started(90);
    timed(100, 150);
    counter.portOut(0x80);
    timed(157, 200); // 7 for the port
    counter.mmio(0xd000_0000, true);
    timed(211, 300); // 11 for the address
    counter.interrupted();
    counter.stopped(310);
    counter.started(990);
    timed(1000, 1001); // A kick is no exit: its time is nobody's.
    counter.portOut(0x80);
    timed(1014, 1020); // 13 more for the port
    const { ports, mmio, reasons, cyclesInside, entries, interrupted } = statistics.report();
    expect(ports).toEqual([{ port: 0x80, direction: 'out', ...row(2, 2, 20) }]);
    expect(mmio).toEqual([{ address: 0xd000_0000, direction: 'write', ...row(1, 1, 11) }]);
    expect(reasons).toEqual([
      { reason: KVM_EXIT_IO, ...row(2, 2, 20) },
      { reason: KVM_EXIT_MMIO, ...row(1, 1, 11) },
    ]);
    // "all of the run loop's time but the cycles of the reasons"
    expect(cyclesInside).toBe(310 - 90 + (1020 - 990) - 20 - 11);
    expect(entries).toBe(4);
    expect(statistics.entries).toBe(4);
    expect(interrupted).toBe(1);
  });

  it('"what the timed ones took, times count over timed": of many exits one in some is timed', () => {
    const { statistics, counter, timed } = fresh();
    const exits = 200_000;
    let now = 0;
    let untimed = -1;
    // Two ports in turn, as a guest that asks and then writes: neither may be the only one that is timed.
    for (let i = 0; i < exits; i++) {
      const entry = now + (i % 2 === 0 ? 30 : 10);
      now = entry + 1000;
      // As native/vcpu.c does it.
      if (--untimed < 0) untimed = timed(entry, now);
      if (i % 2 === 0) counter.portIn(0x3fd);
      else counter.portOut(0x3f8);
    }
    const { ports, entries } = statistics.report();
    expect(entries).toBe(exits);
    const [written, asked] = ports;
    expect(asked).toMatchObject({ port: 0x3fd, count: exits / 2, cycles: (exits / 2) * 10 });
    expect(written).toMatchObject({ port: 0x3f8, count: exits / 2, cycles: (exits / 2) * 30 });
    for (const { timed } of ports) {
      expect(timed).toBeGreaterThan(8192);
      expect(timed).toBeLessThan(12_000);
    }
  });

  it('addresses below 4 GiB are the same rows by either way, in any order, and 0xffffffff is one of them', () => {
    const { statistics, counter } = fresh();
    const addresses = [0xffff_ffff, 0, 0xfee0_00b0, 0xfee0_00b0, 0xffff_ffff, 0x7fff_ffff];
    for (const address of addresses) {
      counter.lowMmioRead(address | 0);
      counter.mmio(address, false);
      counter.lowMmioWrite(address | 0);
    }
    const { mmio } = statistics.report();
    for (const address of addresses) {
      const times = addresses.filter((other) => other === address).length;
      expect(mmio).toContainEqual({ address, direction: 'read', ...row(2 * times) });
      expect(mmio).toContainEqual({ address, direction: 'write', ...row(times) });
    }
    expect(mmio).toHaveLength(2 * new Set(addresses).size);
  });

  it('reads and writes of an address are two rows; GPA 0 and those above 4 GiB are addresses like others', () => {
    const { statistics, counter } = fresh();
    const addresses = [0, 4, 0xfee0_00b0, 0x1_0000_0000, 2 ** 46 + 8, 2 ** 52 - 4];
    for (const address of addresses) for (const isWrite of [false, true, true]) counter.mmio(address, isWrite);
    const { mmio } = statistics.report();
    expect(mmio).toHaveLength(2 * addresses.length);
    for (const address of addresses) {
      expect(mmio).toContainEqual({ address, direction: 'read', ...row(1) });
      expect(mmio).toContainEqual({ address, direction: 'write', ...row(2) });
    }
  });

  it('"port and MMIO exits that found the table … full" are counted together: none is lost or given to another', () => {
    const { statistics, counter } = fresh();
    // 4 bytes apart, as a device's registers are; a second round in the other order meets what the first one stored.
    const addresses = Array.from({ length: 6000 }, (_, i) => 0xd000_0000 + 4 * i);
    for (const address of addresses) counter.mmio(address, true);
    for (const address of addresses.toReversed()) counter.mmio(address, true);
    const { mmio, reasons, others } = statistics.report();
    expect(mmio.length).toBeGreaterThan(1024);
    expect(mmio.length).toBeLessThan(addresses.length);
    expect(new Set(mmio.map(({ address }) => address)).size).toBe(mmio.length);
    expect(addresses).toEqual(expect.arrayContaining(mmio.map(({ address }) => address)));
    for (const row of mmio) expect(row).toMatchObject({ direction: 'write', count: 2 });
    expect(others.count).toBe(2 * (addresses.length - mmio.length));
    expect(reasons).toEqual([{ reason: KVM_EXIT_MMIO, ...row(2 * mmio.length) }]);
  });

  it('time spent on an exit that found the table full goes to the others', () => {
    const { statistics, counter, timed } = fresh();
    for (let i = 0; i < 6000; i++) counter.mmio(4 * i, false);
    const before = statistics.report().mmio;
    for (let i = 0; i < 6000; i++)
      if (!before.some(({ address }) => address === 4 * i)) {
        timed(0, 0);
        counter.mmio(4 * i, false);
        timed(17, 20);
        break;
      }
    const { others } = statistics.report();
    expect(others).toEqual(row(others.count, 1, 17 * others.count));
    expect(statistics.report().mmio).toEqual(before);
  });

  it('a port and an address of the same number are two', () => {
    const { statistics, counter } = fresh();
    counter.portOut(0x1000);
    counter.mmio(0x1000, true);
    const { ports, mmio } = statistics.report();
    expect(ports).toEqual([{ port: 0x1000, direction: 'out', ...row(1) }]);
    expect(mmio).toEqual([{ address: 0x1000, direction: 'write', ...row(1) }]);
  });

  it('addresses that fall on the same cell are kept apart', () => {
    const { statistics, counter } = fresh();
    const addresses = Array.from({ length: 64 }, (_, i) => i * 2 ** 20);
    for (const [i, address] of addresses.entries()) for (let n = 0; n <= i; n++) counter.mmio(address, true);
    const { mmio } = statistics.report();
    for (const [i, address] of addresses.entries())
      expect(mmio).toContainEqual({ address, direction: 'write', ...row(i + 1) });
  });

  it('"written by one vCPU thread …, read by any thread at any time"', async () => {
    const { statistics } = fresh();
    const module = new URL('../../../src/vcpu/observe/statistics.js', import.meta.url).href;
    const code = `import { workerData } from 'node:worker_threads';
      const { ExitStatistics } = await import(workerData.module);
      const stamps = new Float64Array([1, 2]);
      const counter = new ExitStatistics(workerData.buffer).counter(stamps);
      counter.started(0);
      counter.timed();
      counter.portIn(0x42);
      stamps.set([5, 6]);
      counter.timed();
      counter.reason(5);`;
    const worker = new Worker(new URL(`data:text/javascript,${encodeURIComponent(code)}`), {
      workerData: { module, buffer: statistics.buffer },
    });
    await new Promise((resolve, reject) => worker.once('exit', resolve).once('error', reject));
    expect(statistics.entries).toBe(2);
    expect(statistics.report().ports).toEqual([{ port: 0x42, direction: 'in', ...row(1, 1, 3) }]);
  });
});
