// The trace of a running machine: "TSC stamps in native code", "read live by anyone", off unless asked for.
// Design: the exits of a vCPU thread lie in shared memory, and nothing is posted.
import { describe, expect, it } from 'vitest';
import { createVm } from '../../src/index.js';
import { noKvm } from '../support/kvm.js';

/** mov al, 'A'; out 0x10, al; out 0x10, al; in al, 0x61… : then spins. */
const GUEST = Uint8Array.of(0xb0, 0x41, 0xe6, 0x10, 0xe6, 0x10, 0xe4, 0x10, 0xeb, 0xfe);

describe.skipIf(noKvm)('trace', () => {
  it('shows a machine’s exits while it runs, in order, with rising stamps', async () => {
    await using vm = await createVm({
      kernel: { name: 'trace', bytes: GUEST },
      entry: 'real',
      cmdline: '',
      trace: true,
    });
    const trace = vm.vcpus[0]?.trace;
    await vm.start();
    const exits = [];
    for (let i = 0; i < 500 && exits.length < 3; i++) {
      await new Promise((resolve) => setTimeout(resolve, 20));
      exits.push(...(trace?.read() ?? []));
    }
    const accesses = exits.flatMap(({ access }) => access ?? []);
    expect(accesses).toEqual([
      { space: 'port', address: 0x10, isWrite: true, size: 1, count: 1, value: 0x41 },
      { space: 'port', address: 0x10, isWrite: true, size: 1, count: 1, value: 0x41 },
      { space: 'port', address: 0x10, isWrite: false, size: 1, count: 1, value: 0xff },
    ]);
    const stamps = exits.flatMap(({ entered, exited }) => [entered, exited]);
    expect(stamps).toEqual(stamps.toSorted((a, b) => a - b));
    expect(trace?.tscKhz).toBeGreaterThan(100_000);
    expect(trace?.lost).toBe(0);
  });

  it('is not there unless it is asked for', async () => {
    await using vm = await createVm({ kernel: { name: 'trace', bytes: GUEST }, entry: 'real', cmdline: '' });
    expect(vm.vcpus[0]?.trace).toBeUndefined();
  });
});
