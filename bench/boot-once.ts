// One boot of the default guest in a process of its own, up to its first line of user space; a BootOnce as JSON.
// bench/boot.ts starts it, so that process start, compilation and memory are those of a user's process.
// By the package's own name: what is measured is what a user of the package loads.
import { createVm } from 'microvisor';
import { guestResidentMiB, USER_SPACE_LINE, type BootOnce } from './boot-sample.js';

const [kernel, initrd, cmdline] = process.argv.slice(2);
if (kernel === undefined || initrd === undefined || cmdline === undefined)
  throw new Error('boot-once.js KERNEL INITRD CMDLINE');
const milestones = { userSpace: USER_SPACE_LINE };
const vm = await createVm({ kernel, initrd, cmdline, appendQuirkOptions: true, milestones });
const seen = new Promise<void>((resolve) => {
  vm.console.output.on('data', () => {
    if ('userSpace' in vm.report().timeStamps) resolve();
  });
});
await vm.start();
const outcome = await Promise.race([seen, vm.outcome]);
if (outcome !== undefined) throw new Error(`the guest ended before its user space: ${JSON.stringify(outcome.kind)}`);
const guestMiB = guestResidentMiB(vm.memory.size);
const residentMiB = process.memoryUsage.rss() / 2 ** 20 - guestMiB;
await vm.stop();
const { timeStamps, vcpus, kernel: booted } = vm.report();
const result: BootOnce = {
  firstRunCpuMs: timeStamps['firstRun']?.cpuMs ?? Number.NaN,
  userSpaceCpuMs: timeStamps['userSpace']?.cpuMs ?? Number.NaN,
  userSpaceWallMs: timeStamps['userSpace']?.wallMs ?? Number.NaN,
  exits: vcpus.reduce((sum, { entries }) => sum + entries, 0),
  residentMiB,
  guestMiB,
  cmdline: booted.cmdline,
};
process.stdout.write(`${JSON.stringify(result)}\n`);
