// Snapshots of a Linux guest that works: its processors, its disk and its command go on, round after round.
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { createVm, restoreVm, type Vm, type VmConfig } from '../../src/index.js';
import { noKvm } from '../support/kvm.js';
import { BOOT_MS, guestConfig, PREPARE_MS } from '../support/linux.js';
import { amount, isSoak } from '../support/soak.js';

let guest: Pick<VmConfig, 'kernel' | 'initrd' | 'cmdline'>;
beforeAll(async () => {
  if (!noKvm) guest = await guestConfig('small');
}, PREPARE_MS);

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'microvisor-snapshot-'));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

const ROUNDS = amount(3, 200);
/** Blocks that are written between two snapshots, at least. */
const STEP = amount(40, 20);
const BLOCKS = ROUNDS * STEP * 3;
const BLOCK_BYTES = 512;

/** Numbered blocks through the page cache, and reads past it, so that the disk has requests at any time. */
const SCRIPT = `
while :; do dd if=/dev/vda of=/dev/null bs=64k iflag=direct 2>/dev/null; done &
exec 3>/dev/vda
i=0
while [ $i -lt ${BLOCKS} ]; do
  printf '%-${BLOCK_BYTES - 1}s\\n' $i >&3
  echo $i
  i=$((i + 1))
done
exec 3>&-
sync
nproc
`;

/** Lines of the command, over all the machines that it runs in. */
class Lines {
  readonly lines: string[] = [];
  #rest = '';

  /** Resolves when the machine has nothing more to say. */
  follow(vm: Vm): Promise<void> {
    vm.console.output.resume();
    const { exec } = vm;
    if (exec === undefined) throw new Error('the machine has no exec channel');
    exec.stderr.resume();
    exec.stdout.on('data', (bytes: Buffer) => {
      const pieces = (this.#rest + bytes.toString('latin1')).split('\n');
      this.#rest = pieces.pop() ?? '';
      this.lines.push(...pieces);
    });
    return new Promise((resolve) => exec.stdout.once('end', resolve));
  }
}

describe.skipIf(noKvm)('a Linux guest', () => {
  test.each(isSoak ? [1, 2, 4] : [2])(
    '"writes numbered blocks … goes on without a lost or doubled block", with %i vCPUs',
    async (cpus) => {
      const disk = join(folder, 'disk.img');
      writeFileSync(disk, new Uint8Array(BLOCKS * BLOCK_BYTES));
      const directory = join(folder, 'snapshot');
      const output = new Lines();
      let vm = await createVm({
        ...guest,
        cpus,
        disks: [{ path: disk }],
        appendQuirkOptions: true,
        exec: { argv: ['sh', '-c', SCRIPT] },
      });
      let silent = output.follow(vm);
      await vm.start();
      for (let round = 0; round < ROUNDS; round++) {
        const wanted = output.lines.length + STEP;
        while (output.lines.length < wanted && vm.state === 'running') await sleep(5);
        await vm.pause();
        await vm.snapshot(directory);
        await vm.stop();
        await silent;
        vm = await restoreVm(directory);
        silent = output.follow(vm);
        await vm.resume();
      }
      expect(await vm.outcome).toMatchObject({ kind: 'command', status: 0 });
      await silent;
      expect(output.lines).toEqual([...Array.from({ length: BLOCKS }, (_, i) => String(i)), String(cpus)]);
      const content = readFileSync(disk, 'latin1');
      for (let i = 0; i < BLOCKS; i++)
        expect(content.slice(i * BLOCK_BYTES, (i + 1) * BLOCK_BYTES).trimEnd()).toBe(String(i));
    },
    BOOT_MS * amount(2, 20),
  );

  test(
    'two that come from one snapshot have different random numbers',
    async () => {
      const directory = join(folder, 'snapshot');
      const vm = await createVm({ ...guest, appendQuirkOptions: true, exec: 'later' });
      vm.console.output.resume();
      await vm.start();
      await vm.ready;
      await vm.snapshot(directory);
      await vm.stop();
      const outputs: string[][] = [];
      for (let i = 0; i < 2; i++) {
        const output = new Lines();
        const script = 'head -c 16 /dev/urandom | od -An -tx1';
        const restored = await restoreVm(directory, { exec: { argv: ['sh', '-c', script] } });
        const silent = output.follow(restored);
        await restored.resume();
        expect(await restored.outcome).toMatchObject({ kind: 'command', status: 0 });
        await silent;
        outputs.push(output.lines);
      }
      const [first, second] = outputs;
      expect(first?.[0]).toMatch(/^( [0-9a-f]{2}){16}$/);
      expect(second).not.toEqual(first);
    },
    BOOT_MS * 2,
  );
});
