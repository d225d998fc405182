// `Vm.fork` of a Linux guest that was booted once and waits for a command.
import { readdirSync } from 'node:fs';
import { text } from 'node:stream/consumers';
import { setTimeout as sleep } from 'node:timers/promises';
import { beforeAll, describe, expect, test, type TestContext } from 'vitest';
import { createVm, VcpuPool, type Vm, type VmConfig } from '../../src/index.js';
import { noKvm } from '../support/kvm.js';
import { BOOT_MS, guestConfig, PREPARE_MS } from '../support/linux.js';
import { amount } from '../support/soak.js';

/** A hundred take two processors two minutes and leave nothing of them to others: in a soak. The SVM host has a slow one. */
const FORKS = process.env['MICROVISOR_HOST'] === 'svm' ? 5 : amount(12, 100);

let guest: Pick<VmConfig, 'kernel' | 'initrd' | 'cmdline'>;
beforeAll(async () => {
  if (!noKvm) guest = await guestConfig('small');
}, PREPARE_MS);

const held = (): { fds: number; threads: number } => ({
  fds: readdirSync('/proc/self/fd').length,
  threads: readdirSync('/proc/self/task').length,
});

async function booted({ onTestFinished }: TestContext): Promise<Vm> {
  const vm = await createVm({ ...guest, appendQuirkOptions: true, entropy: true, memoryMiB: 64, exec: 'later' });
  onTestFinished(async () => void (await vm.stop()));
  vm.console.output.resume();
  await vm.start();
  await vm.ready;
  await vm.pause();
  return vm;
}

/** What the command in a guest says, and how it ended. */
async function answer(vm: Vm, input: string): Promise<string> {
  vm.console.output.resume();
  vm.exec?.stderr.resume();
  vm.exec?.stdin.end(input);
  const said = text(vm.exec?.stdout ?? fail());
  const outcome = await vm.outcome;
  const end = outcome.kind === 'failed' ? outcome.message : outcome.kind === 'command' ? outcome.status : outcome.kind;
  return `${(await said).trim()}, ${end}`;
}

function fail(): never {
  throw new Error('the machine has no exec channel');
}

describe.skipIf(noKvm)('forks of a Linux guest', () => {
  test(
    '"100 forks alive at once on this machine, each running a command; then all gone, with the same number of fds and threads as before"',
    async (context) => {
      const parent = await booted(context);
      // Whatever is made at the first fork is there now.
      for (const fork of await parent.fork(1)) await fork.stop();
      const before = held();
      const exec = { argv: ['sh', '-c', 'read x; echo $((x * 3))'] };
      const forks = await parent.fork(FORKS, { exec });
      context.onTestFinished(async () => void (await Promise.all(forks.map((fork) => fork.stop()))));
      await Promise.all(forks.map((fork) => fork.resume()));
      expect(forks.map(({ state }) => state)).toEqual(forks.map(() => 'running'));
      const answers = await Promise.all(forks.map((fork, index) => answer(fork, `${index}\n`)));
      expect(answers).toEqual(forks.map((_, index) => `${index * 3}, 0`));
      for (let tries = 0; tries < 400 && held().threads > before.threads; tries++) await sleep(25);
      expect(held()).toEqual(before);
    },
    2 * BOOT_MS,
  );

  test(
    'forks draw their own random numbers: "entropy is reseeded"',
    async (context) => {
      const parent = await booted(context);
      await using threads = new VcpuPool(2);
      await threads.ready;
      const exec = { argv: ['sh', '-c', 'head -c 16 /dev/urandom | md5sum'] };
      const forks = await parent.fork(2, { exec, threads });
      context.onTestFinished(async () => void (await Promise.all(forks.map((fork) => fork.stop()))));
      await Promise.all(forks.map((fork) => fork.resume()));
      const [one, other] = await Promise.all(forks.map((fork) => answer(fork, '')));
      expect(one).toMatch(/^[0-9a-f]{32} +-, 0$/);
      expect(other).toMatch(/^[0-9a-f]{32} +-, 0$/);
      expect(one).not.toBe(other);
    },
    BOOT_MS,
  );
});
