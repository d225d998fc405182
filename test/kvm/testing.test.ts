// `microvisor/testing`: "boot once, fork per test, run a command, assert on output, exits, memory and disk". What Linux
// needs for is in test/linux/testing.test.ts.
import { readdirSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { describe, expect, it } from 'vitest';
import { bootKernel, GuestTestError, type Bench } from '../../src/testing/index.js';
import { noKvm } from '../support/kvm.js';
import { runSuite } from '../support/node-test.js';
import { programsMissing } from '../support/programs.js';

/** mov dx, 0x3f8; mov al, 'r'; out dx, al; inc word [0x1000]; jmp the inc */
const COUNTER = Uint8Array.of(0xba, 0xf8, 0x03, 0xb0, 0x72, 0xee, 0xff, 0x06, 0x00, 0x10, 0xeb, 0xfa);
/** mov al, 1; out 0xf4, al */
const ENDS = Uint8Array.of(0xb0, 0x01, 0xe6, 0xf4);
const kernel = (bytes: Uint8Array) => ({ kernel: { name: 'guest', bytes }, entry: 'real', memoryMiB: 1 }) as const;
const boot = (): Promise<Bench> => bootKernel({ ...kernel(COUNTER), until: 'r' });
const left = (): readonly string[] => readdirSync(tmpdir()).filter((name) => name.startsWith('microvisor-bench-'));

describe.skipIf(noKvm)('microvisor/testing', { timeout: 60_000 }, () => {
  it.skipIf(programsMissing('as') !== undefined)(
    '"with an example test-suite that a … OS-course author would copy"',
    async () => {
      const { status, output, passed, failed } = await runSuite('own-kernel.test.js');
      expect({ status, passed, failed }, output).toEqual({ status: 0, passed: 3, failed: 0 });
    },
  );

  it('"boot once, fork per test": forks of one bench are apart, and nothing is left of it', async () => {
    const before = left();
    {
      await using bench = await boot();
      expect(bench.bootConsole).toBe('r');
      await using one = await bench.fork();
      await using other = await bench.fork();
      for (const guest of [one, other]) await guest.vm.pause();
      one.memory.writeU16(0x2000, 0xabcd);
      expect(other.memory.readU16(0x2000)).toBe(0);
    }
    expect(left()).toEqual(before);
  });

  it('what is waited for and does not come: an error that says what, and what there was', async () => {
    await using bench = await boot();
    await using guest = await bench.fork();
    await expect(guest.until('never', { timeoutMs: 100 })).rejects.toThrow(/^100 ms passed before never came/);
    await expect(guest.ended({ timeoutMs: 100 })).rejects.toThrow(GuestTestError);
    await expect(guest.run(['true'])).rejects.toThrow(/not booted for commands/);
    await expect(guest.disk()).rejects.toThrow(/the guest has 0 disks, and none with number 0/);
    await guest.vm.stop();
    await expect(guest.until('never')).rejects.toThrow(/^the guest ended before never came/);
  });

  it('a kernel that ends before it is ready: an error that says how, and nothing is left', async () => {
    const before = left();
    await expect(bootKernel({ ...kernel(ENDS), until: 'r' })).rejects.toThrow(
      /^(debug-exit before the kernel had printed r|the guest ended before r came)/,
    );
    await expect(bootKernel({ ...kernel(COUNTER), until: 'x', timeoutMs: 300 })).rejects.toThrow(
      /300 ms passed before/,
    );
    expect(left()).toEqual(before);
  });
});
