// Latency histograms of the explorer: what counts as the time of an exit, where it counts, and what it is called.
import { describe, expect, it } from 'vitest';
import { KVM_EXIT_HLT, KVM_EXIT_IO } from '../../../src/kvm/abi.js';
import { bucketOf, Latencies } from '../../../src/web/latencies.js';
import type { TracedExit } from '../../../src/vcpu/observe/trace-reader.js';

/** 1000 cycles a microsecond: a cycle is a nanosecond. */
const KHZ = 1_000_000;
const COM1 = {
  space: 'port' as const,
  base: 0x3f8,
  length: 8,
  name: 'COM1',
  registers: [
    { offset: 0, name: 'RBR', size: 1, access: 'read' as const },
    { offset: 0, name: 'THR', size: 1, access: 'write' as const },
  ],
};

const out = (entered: number, exited: number, address = 0x3f8): Omit<TracedExit, 'words'> => ({
  entered,
  exited,
  reason: KVM_EXIT_IO,
  access: { space: 'port', address, isWrite: true, size: 1, count: 1, value: 0x41 },
});
const hlt = (entered: number, exited: number): Omit<TracedExit, 'words'> => ({
  entered,
  exited,
  reason: KVM_EXIT_HLT,
  access: undefined,
});

describe('latency histograms', () => {
  it('an exit took from its exit to the next entry of the same vCPU, by its register’s name', () => {
    const latencies = new Latencies([COM1], () => KHZ);
    expect(latencies.add(0, out(0, 100))).toBeUndefined();
    expect(latencies.add(1, hlt(0, 5000))).toBeUndefined();
    // 900 ns: from 512 to 1024.
    expect(latencies.add(0, hlt(1000, 2000))).toMatchObject({ vcpu: 0, exited: 100, served: 900 });
    const [row, ...others] = latencies.rows();
    expect(row).toMatchObject({ name: 'out 0x3f8 COM1 THR', count: 1 });
    expect(row?.buckets.flatMap((count, at) => (count > 0 ? [at] : []))).toEqual([9]);
    expect(others).toEqual([]);
    expect(latencies.unserved().map(({ vcpu, served }) => [vcpu, served])).toEqual([
      [0, -1],
      [1, -1],
    ]);
  });

  it('across exits that were lost nothing is known', () => {
    const latencies = new Latencies([COM1], () => KHZ);
    latencies.add(0, out(0, 100));
    latencies.gap(0);
    expect(latencies.add(0, hlt(9000, 9100))).toBeUndefined();
    expect(latencies.rows()).toEqual([]);
  });

  it('keeps a bounded number of kinds, whatever the guest touches', () => {
    const latencies = new Latencies([], () => KHZ);
    for (let port = 0; port < 3000; port++) latencies.add(0, out(port * 100, port * 100 + 10, port));
    const rows = latencies.rows();
    expect(rows.length).toBeLessThanOrEqual(401);
    expect(rows.reduce((sum, { count }) => sum + count, 0)).toBe(2999);
    expect(rows[0]?.name).toBe('others');
  });

  it.each([
    [-5, 0],
    [0, 0],
    [1, 0],
    [2, 1],
    [1023, 9],
    [1024, 10],
    [1e12, 30],
  ])('%d ns count in the bucket %d', (nanoseconds, bucket) => {
    expect(bucketOf(nanoseconds)).toBe(bucket);
  });
});
