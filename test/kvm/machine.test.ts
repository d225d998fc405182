// The machine's life on the real KVM with guests of a few bytes: start, pause, resume, stop, and how it ends.
import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { describe, expect, test } from 'vitest';
import { createVm, type Outcome, type Vm, type VmConfig } from '../../src/index.js';
import { noKvm } from '../support/kvm.js';
import type { Held } from './cycles-process.js';

/** jmp . */
const SPIN = Uint8Array.of(0xeb, 0xfe);
/** inc word [0x600]; jmp back: a guest whose progress shows in its memory. */
const COUNT = Uint8Array.of(0xff, 0x06, 0x00, 0x06, 0xeb, 0xfa);
/** cli; hlt; jmp to hlt */
const DEAD = Uint8Array.of(0xfa, 0xf4, 0xeb, 0xfd);
/** sti; hlt; jmp to hlt: nothing interrupts it, but something could. */
const IDLE = Uint8Array.of(0xfb, 0xf4, 0xeb, 0xfd);
/** mov $0x3f8,%dx; mov $'A',%al; out %al,(%dx); mov $7,%al; out %al,$0xf4; hlt */
const PRINT_AND_EXIT = Uint8Array.of(0xba, 0xf8, 0x03, 0xb0, 0x41, 0xee, 0xb0, 0x07, 0xe6, 0xf4, 0xf4);
/** ud2, in protected mode with an empty IDT: no handler for the exception, nor for its double fault. */
const TRIPLE_FAULT = Uint8Array.of(0x0f, 0x0b);

function real(bytes: Uint8Array, more: Partial<VmConfig> = {}): Promise<Vm> {
  return createVm({ kernel: { name: 'micro-guest', bytes }, entry: 'real', cmdline: '', memoryMiB: 2, ...more });
}

async function run(bytes: Uint8Array, more: Partial<VmConfig> = {}): Promise<Outcome> {
  const vm = await real(bytes, more);
  await vm.start();
  return vm.outcome;
}

function failure(outcome: Outcome): string {
  return outcome.kind === 'failed' ? outcome.failure : outcome.kind;
}

describe.skipIf(noKvm)('machine', () => {
  test('"a write of V to the debug-exit port 0xf4 ends" the run, and what was printed before is not lost', async () => {
    const vm = await real(PRINT_AND_EXIT);
    const printed: Buffer[] = [];
    vm.console.output.on('data', (bytes: Buffer) => printed.push(bytes));
    await vm.start();
    expect(await vm.outcome).toEqual({ kind: 'debug-exit', value: 7 });
    expect(Buffer.concat(printed).toString()).toBe('A');
  });

  test('stop ends a guest that spins', async () => {
    const vm = await real(SPIN);
    await vm.start();
    expect(await vm.stop()).toEqual({ kind: 'stopped', by: 'host' });
    expect(vm.state).toBe('ended');
  });

  test('a paused guest makes no progress, and goes on after resume', async () => {
    await using vm = await real(COUNT);
    await vm.start();
    const counter = (): number => vm.memory.readU16(0x600);
    while (counter() === 0) await sleep(1);
    await vm.pause();
    const paused = counter();
    await sleep(50);
    expect(counter()).toBe(paused);
    await vm.resume();
    while (counter() === paused) await sleep(1);
    expect(vm.state).toBe('running');
  });

  test('registers can be read and written while the machine is paused, and only then', async () => {
    await using vm = await real(SPIN);
    const [boot] = vm.vcpus;
    await vm.start();
    await expect(boot?.call('getRegs')).rejects.toThrow('pause the machine first');
    await vm.pause();
    expect((await boot?.call('getRegs'))?.rip).toBe(0x7c00n);
    await boot?.call('setRegs', { rax: 42n });
    expect((await boot?.call('getRegs'))?.rax).toBe(42n);
  });

  test('"all CPUs halted with interrupts off (noticed within a second)"', async () => {
    expect(failure(await run(DEAD))).toBe('all-cpus-halted');
  });

  test('application processors that were never started do not keep a dead guest alive', async () => {
    expect(failure(await run(DEAD, { cpus: 2 }))).toBe('all-cpus-halted');
  });

  test('a guest that halts with interrupts on is idle, not dead', async () => {
    const vm = await real(IDLE);
    await vm.start();
    await sleep(1500);
    expect(vm.state).toBe('running');
    await vm.stop();
  });

  test('a triple fault ends with its name and the registers', async () => {
    const outcome = await run(TRIPLE_FAULT, { entry: 'protected' });
    expect(failure(outcome)).toBe('triple-fault');
    // On SVM the state after a shutdown is undefined, so KVM resets the vCPU before it tells us.
    expect(['protected', 'real']).toContain(outcome.kind === 'failed' && outcome.vcpus[0]?.mode);
  });

  test('an AbortSignal stops the machine, also one that has aborted before', async () => {
    const controller = new AbortController();
    const vm = await real(SPIN, { signal: controller.signal });
    await vm.start();
    controller.abort();
    expect(await vm.outcome).toEqual({ kind: 'stopped', by: 'abort' });
    const late = await real(SPIN, { signal: AbortSignal.abort() });
    expect(await late.outcome).toEqual({ kind: 'stopped', by: 'abort' });
  });

  test('a machine that was never started can be stopped', async () => {
    const vm = await real(SPIN);
    expect(await vm.stop()).toEqual({ kind: 'stopped', by: 'host' });
  });

  test('machines of one process do not affect each other', async () => {
    await using spinning = await real(SPIN);
    await spinning.start();
    expect(failure(await run(TRIPLE_FAULT, { entry: 'protected' }))).toBe('triple-fault');
    expect(spinning.state).toBe('running');
  });

  test('RAM above the 32-bit hole is there: 4 GiB in two regions', async () => {
    await using vm = await real(SPIN, { memoryMiB: 4096 });
    expect(vm.memory.regions.map(({ base }) => base)).toEqual([0, 0x1_0000_0000]);
    vm.memory.writeU64(0x1_3fff_fff8, 1n);
    expect(vm.memory.readU64(0x1_3fff_fff8)).toBe(1n);
  });

  // Scaled down on the emulated SVM host, where a worker thread alone takes a second to start.
  const [first, cycles] = process.env['MICROVISOR_HOST'] === 'svm' ? [5, 15] : [10, 100];
  test('"100 starts and stops in one process leave the same number of fds and threads and, within 16 MiB, the same resident memory"', async () => {
    const script = fileURLToPath(new URL('./cycles-process.js', import.meta.url));
    // The first few meet what Node takes once: the pages of its own code, and the first growth of its heap.
    const { stdout } = await promisify(execFile)(process.execPath, [script, String(first), String(cycles)]);
    const [before, after] = JSON.parse(stdout) as [Held, Held];
    expect({ fds: after.fds, threads: after.threads }).toEqual({ fds: before.fds, threads: before.threads });
    expect(after.residentMiB - before.residentMiB).toBeLessThan(16);
  }, 240_000);

  // Node joins every thread of a process that ends, and one inside KVM_RUN would never come.
  test.each([
    ['an error that nobody catches', "throw new Error('a bug of the program')", 1, /a bug of the program/],
    ['process.exit', 'process.exit(3)', 3, /^$/],
  ])('a program with a running guest ends by %s, at once', async (_, end, status, stderr) => {
    const program = `
      import { createVm } from ${JSON.stringify(new URL('../../src/index.js', import.meta.url).href)};
      const kernel = { name: 'spin', bytes: Uint8Array.of(${[...SPIN].join()}) };
      const vm = await createVm({ kernel, entry: 'real', cmdline: '', memoryMiB: 2, cpus: 2 });
      await vm.start();
      setTimeout(() => { ${end}; }, 100);`;
    const ended = await promisify(execFile)(process.execPath, ['--input-type=module', '-e', program], {
      timeout: 30_000,
      killSignal: 'SIGKILL',
    }).catch((error: { code: number; stderr: string }) => error);
    expect(ended).toMatchObject({ code: status, stderr: expect.stringMatching(stderr) as string });
  });
});

function sleep(milliseconds: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}
