// Debian's gdb as its user has it: against the default guest's kernel with its symbols, and against a lesson's guest.
// "Tested with Debian's gdb against the default kernel with symbols (break in a kernel function, backtrace, continue)
// and against a lesson."
import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { buildLesson } from '../../guests/ladder/build.js';
import { createVm, System, type Vm, type VmConfig } from '../../src/index.js';
import { debugFacilities } from '../../src/machine/host-quirks.js';
import { presentQuirks, probeQuirks } from '../../src/vcpu/assist/probe.js';
import type { DebugFacilities } from '../../src/vcpu/gdb/points.js';
import { noKvm } from '../support/kvm.js';
import { guestConfig, PREPARE_MS } from '../support/linux.js';
import { programsMissing } from '../support/programs.js';

const GDB_MS = 400_000;
/** The lesson's own address; see guests/06-long-mode. */
const LESSON_ENTRY = 0x1000;

const facilities = hostFacilities();

function hostFacilities(): DebugFacilities {
  if (noKvm) return { int3: false, realModeInt3: false, registers: 0, watchpoints: false, steps: false };
  using system = System.open();
  return debugFacilities(system, presentQuirks(probeQuirks(system, { only: 'run' })));
}

const skipped = noKvm ? 'no KVM' : programsMissing('gdb');

describe.skipIf(skipped !== undefined)(`Debian's gdb${skipped === undefined ? '' : ` (${skipped})`}`, () => {
  const directory = mkdtempSync(join(tmpdir(), 'microvisor-gdb-'));
  afterAll(() => rmSync(directory, { recursive: true }));

  async function waiting(config: VmConfig): Promise<Vm> {
    const vm = await createVm({ ...config, gdb: { listen: join(directory, 'gdb.sock'), wait: true } });
    vm.console.output.resume();
    await vm.start();
    return vm;
  }

  /** What gdb prints for these commands, one after the other. */
  function gdb(vm: Vm, commands: readonly string[], file?: string): Promise<string> {
    const words = ['set pagination off', 'set confirm off', `target remote ${vm.gdbAddress}`, ...commands];
    const child = spawn('gdb', ['-nx', '-batch', ...words.flatMap((word) => ['-ex', word]), ...(file ? [file] : [])], {
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    let text = '';
    for (const stream of [child.stdout, child.stderr])
      stream.on('data', (bytes: Buffer) => void (text += bytes.toString()));
    return new Promise((resolve, reject) => {
      child.once('error', reject);
      child.once('close', () => resolve(text));
    });
  }

  describe('and the default kernel', () => {
    let config: VmConfig;
    beforeAll(async () => {
      config = { ...(await guestConfig('small')), appendQuirkOptions: true };
    }, PREPARE_MS);

    // Where neither int3 nor debug registers stop the guest, it is stepped: to start_kernel that would take an hour.
    const stops = facilities.int3 || facilities.registers > 0;
    const symbols = (): string => (typeof config.kernel === 'string' ? config.kernel : '');

    it.runIf(stops)(
      'breaks in a kernel function before paging is on, says where it is called from, steps, and continues',
      async () => {
        await using vm = await waiting(config);
        const commands = [
          'break start_kernel',
          'continue',
          'backtrace',
          'delete',
          'stepi',
          'x/s (char*)&linux_banner',
          'tbreak setup_arch',
          'continue',
          'backtrace 2',
          'info threads',
          'detach',
        ];
        const said = await gdb(vm, commands, symbols());
        expect(said).toMatch(/Breakpoint 1, 0x[0-9a-f]+ in start_kernel \(\)/);
        expect(said).toMatch(/#1 .* in x86_64_start_reservations \(\)\n#2 .* in x86_64_start_kernel \(\)/);
        expect(said).toMatch(/<linux_banner>:\s+"Linux version /);
        expect(said).toMatch(/Temporary breakpoint 2, 0x[0-9a-f]+ in setup_arch \(\)/);
        expect(said).toMatch(/#1 .* in start_kernel \(\)/);
        expect(said).toMatch(/\* 1 +Thread 1 "vCPU 0"/);
        expect(vm.state).toBe('running');
      },
      GDB_MS,
    );

    it(
      'stops a kernel that runs, sees its memory through its own page tables, steps it, and lets it go',
      async () => {
        const cmdline = `${(config.cmdline ?? '').replace(/\bquiet\b/, '')} earlyprintk=ttyS0`;
        const gdbConfig = { listen: join(directory, 'gdb.sock') };
        await using vm = await createVm({ ...config, cmdline, gdb: gdbConfig });
        const booting = new Promise<void>((resolve) => vm.console.output.once('data', () => resolve()));
        await vm.start();
        await booting;
        vm.console.output.resume();
        const where = 'printf "at %lx, %ld to go\\n", $pc, $rcx';
        const commands = ['x/s (char*)&linux_banner', where, 'stepi', where, 'detach'];
        const said = await gdb(vm, commands, symbols());
        expect(said).toMatch(/<linux_banner>:\s+"Linux version /);
        // RCX too: a step of a repeated string instruction is one repetition of it, and RIP stays (SDM vol. 2B, REP).
        const [before, after] = said.match(/at ffffffff8[0-9a-f]+, -?\d+ to go/g) ?? [];
        expect(before).toBeDefined();
        expect(after).toBeDefined();
        expect(after).not.toBe(before);
        expect(vm.state).toBe('running');
      },
      GDB_MS,
    );
  });

  describe('and a lesson', () => {
    it(
      'follows lesson 6 from real mode to long mode by a breakpoint, and sees its registers',
      async () => {
        const kernel = join(directory, 'lesson-06.bin');
        const image = buildLesson('06-long-mode', LESSON_ENTRY);
        writeFileSync(kernel, image);
        await using vm = await waiting({ kernel, entry: 'real', load: LESSON_ENTRY, cmdline: '', memoryMiB: 8 });
        // Its last instruction but a jump: hlt.
        const halt = LESSON_ENTRY + image.lastIndexOf(0xf4);
        const said = await gdb(vm, [
          'printf "start: cr0=%lx\\n", $cr0',
          `hbreak *0x${halt.toString(16)}`,
          'continue',
          'printf "end: cr0=%lx efer=%lx cs=%x\\n", $cr0, $efer, $cs',
          'monitor walk 0xffff800000000000',
          'x/gx 0xffff800000000008',
          'kill',
        ]);
        expect(said).toContain('start: cr0=10\n');
        expect(said).toMatch(/end: cr0=80000011 efer=500 cs=\w+\n/);
        expect(said).toMatch(/paging 4-level\nPML4E at /);
        expect(said).toMatch(/0xffff800000000008:\s+0x[0-9a-f]*[1-9a-f]/);
        expect(await vm.outcome).toEqual({ kind: 'stopped', by: 'host' });
      },
      GDB_MS,
    );
  });
});
