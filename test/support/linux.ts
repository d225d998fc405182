// Boots a guest of guests/linux for a test and runs one command in it; and tells whether this host emulates kernel code.
import { text } from 'node:stream/consumers';
import { prepareGuest, type GuestFlavour } from '../../guests/linux/prepare.js';
import { createVm, System, type Outcome, type Vm, type VmConfig } from '../../src/index.js';
import { presentQuirks, probeQuirks } from '../../src/vcpu/assist/probe.js';
import { noKvm } from './kvm.js';

/** The first test to ask builds the kernel: minutes on two cores. For hooks. */
export const PREPARE_MS = 1_500_000;
/** One boot, and whatever else the machine is busy with. */
export const BOOT_MS = 300_000;

export async function guestConfig(flavour: GuestFlavour): Promise<Pick<VmConfig, 'kernel' | 'initrd' | 'cmdline'>> {
  const { kernel, initrd, cmdline } = await prepareGuest({ flavour });
  return { kernel, initrd, cmdline };
}

export interface CommandRun {
  readonly outcome: Outcome;
  readonly stdout: string;
  readonly console: string;
  readonly vm: Vm;
}

/** Boots, runs `script` with sh, and waits for the end. */
export async function runInGuest(config: VmConfig, script: string): Promise<CommandRun> {
  const vm = await createVm({ appendQuirkOptions: true, exec: { argv: ['sh', '-c', script] }, ...config });
  const { stdout, stdin, stderr } = vm.exec ?? fail('the machine has no exec channel');
  stdin.end();
  stderr.resume();
  const texts = Promise.all([text(stdout), text(vm.console.output)]);
  await vm.start();
  const outcome = await vm.outcome;
  const [out, onConsole] = await texts;
  return { outcome, stdout: out, console: onConsole, vm };
}

/** Where guest kernels run in an instruction emulator, big ones take minutes; see src/vcpu/assist/quirks.ts. */
export function emulatesKernelCode(): boolean {
  if (noKvm) return false;
  using system = System.open();
  return presentQuirks(probeQuirks(system, { only: 'run' })).includes('kernel-emulated');
}

function fail(message: string): never {
  throw new Error(message);
}
