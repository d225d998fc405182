// `microvisor/testing` with Linux: "an example test-suite that a kernel-module … author would copy", as its reader runs it.
import { beforeAll, describe, expect, it } from 'vitest';
import { prepareGuest } from '../../guests/linux/prepare.js';
import { bootLinux } from '../../src/testing/index.js';
import { noKvm } from '../support/kvm.js';
import { BOOT_MS, PREPARE_MS } from '../support/linux.js';
import { runSuite } from '../support/node-test.js';
import { programsMissing } from '../support/programs.js';

const missing = noKvm ? 'no KVM' : programsMissing('mke2fs');

beforeAll(async () => {
  if (!noKvm) await prepareGuest({ flavour: 'small' });
}, PREPARE_MS);

describe.skipIf(missing !== undefined)('microvisor/testing with Linux', () => {
  it(
    'the suite of examples/ passes',
    async () => {
      const { status, output, passed, failed } = await runSuite('linux-guest.test.js');
      expect({ status, passed, failed }, output).toEqual({ status: 0, passed: 3, failed: 0 });
    },
    BOOT_MS,
  );

  it(
    '"100 forks alive at once …, each running a command": eight of them, and each has its own answer',
    async () => {
      await using bench = await bootLinux({ memoryMiB: 64 });
      const guests = await Promise.all(Array.from({ length: 8 }, () => bench.fork()));
      try {
        const ends = await Promise.all(
          guests.map((guest, i) =>
            guest.run(['sh', '-c', `read x; echo $((x * 3))`], { stdin: `${i}\n`, timeoutMs: BOOT_MS }),
          ),
        );
        expect(ends).toEqual(guests.map((_, i) => ({ status: 0, stdout: `${i * 3}\n`, stderr: '' })));
      } finally {
        for (const guest of guests) await guest[Symbol.asyncDispose]();
      }
    },
    BOOT_MS,
  );
});
