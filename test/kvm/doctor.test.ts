// The boot doctor: each row of its table of causes, provoked by a guest of a few bytes or an image made by hand.
// "At least 15 causes, each with a test that provokes it."
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { createVm, System, type Diagnosis, type Vm, type VmConfig } from '../../src/index.js';
import { presentQuirks, probeQuirks } from '../../src/vcpu/assist/probe.js';
import { CAUSES } from '../../src/machine/doctor/causes.js';
import { cpioArchive, elfImage, elfNote, linuxNote, u32 } from '../support/images.js';
import { noKvm } from '../support/kvm.js';

const directory = mkdtempSync(join(tmpdir(), 'microvisor-doctor-'));
afterAll(() => rmSync(directory, { recursive: true }));

function file(name: string, bytes: Uint8Array): string {
  const path = join(directory, name);
  writeFileSync(path, bytes);
  return path;
}

const isSvm = process.env['MICROVISOR_HOST'] === 'svm';
/** On SVM a shutdown takes the registers with it, and the doctor says that instead. */
const unlessLost = (id: string): string => (isSvm ? 'triple-fault-state-lost' : id);
const quirks = (): string[] => {
  using system = System.open();
  return presentQuirks(probeQuirks(system, { only: 'run' }));
};

/** The emulated host needs its time for the exits by which a poll is known. */
const STALL_MS = isSvm ? 1500 : 250;

const PROTECTED = 0x10_0000;
const LINUX = 0x100_0000;
/** out of $0x0f to the ACPI reset register, then spin: as a panicking Linux with panic=-1. */
const RESET = [0xba, 0x08, 0x06, 0, 0, 0xb0, 0x0f, 0xee, 0xeb, 0xfe];
const SPIN = [0xeb, 0xfe];
const UD2 = [0x0f, 0x0b];

/** Prints `text` on COM1 and goes on with `then`. Runs at `origin` in 32-bit and 64-bit code alike. */
function printing(
  text: string,
  origin: number,
  then: readonly number[] = RESET,
  before: readonly number[] = [],
): number[] {
  const bytes = Buffer.from(`${text}\n`);
  const code = 5 + 5 + 5 + 1 + 2 + before.length + then.length;
  return [
    before,
    [0xbe, ...u32(origin + code)], // mov $text,%esi
    [0xb9, ...u32(bytes.length)], // mov $length,%ecx
    [0xba, ...u32(0x3f8)], // mov $COM1,%edx
    [0xfc, 0xf3, 0x6e], // cld; rep outsb
    then,
    [...bytes],
  ].flat();
}

const flat = (code: readonly number[], more: Partial<VmConfig> = {}): VmConfig => ({
  kernel: { name: 'guest.bin', bytes: Uint8Array.from(code) },
  entry: 'protected',
  cmdline: '',
  memoryMiB: 2,
  ...more,
});

/** An ELF kernel that says it is Linux, entered in long mode with boot_params. */
const linux = (code: readonly number[], more: Partial<VmConfig> = {}, note = linuxNote()): VmConfig => ({
  kernel: {
    name: 'vmlinux',
    bytes: elfImage({
      entry: BigInt(LINUX),
      segments: [
        { paddr: BigInt(LINUX), bytes: Uint8Array.from(code) },
        { type: 4, paddr: 0n, bytes: note },
      ],
    }),
  },
  cmdline: 'console=ttyS0',
  memoryMiB: 32,
  ...more,
});

const panicking = (text: string, more: Partial<VmConfig> = {}, before: readonly number[] = []): VmConfig =>
  linux(printing(text, LINUX, RESET, before), more);

const NO_ROOT = 'Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)';

interface Case {
  /** Id of the row; a function where it depends on the host, undefined where the host cannot provoke it. */
  readonly id: string | (() => string | undefined);
  readonly what: string;
  readonly config: () => VmConfig;
  /** In the sentence. */
  readonly says: RegExp;
  /** What the guest prints decides, on every host alike: the emulated one, which is slow, is spared it. */
  readonly isText?: true;
}

/** These end by themselves. */
const ENDING: readonly Case[] = [
  {
    id: 'device-failed',
    what: 'a device of the machine that throws',
    config: () =>
      flat([0xe4, 0x40 + 0x10, ...SPIN], {
        devices: [
          {
            name: 'broken',
            ports: { base: 0x50, length: 1 },
            read: () => {
              throw new Error('a loose wire');
            },
            write: () => undefined,
          },
        ],
      }),
    says: /loose wire/,
  },
  {
    id: 'initrd-not-unpacked',
    isText: true,
    what: 'an initrd of a form that the kernel does not know',
    config: () =>
      panicking(`Initramfs unpacking failed: invalid magic at start of compressed archive\n${NO_ROOT}`, {
        initrd: file('odd.initrd', new Uint8Array(64).fill(0x42)),
      }),
    says: /could not unpack the initrd/,
  },
  {
    id: 'ram-too-small',
    isText: true,
    what: 'too little memory',
    config: () => panicking('Kernel panic - not syncing: System is deadlocked on memory'),
    says: /32 MiB of RAM are too small/,
  },
  {
    id: 'no-init-in-initrd',
    isText: true,
    what: 'an initrd without /init',
    config: () => panicking(NO_ROOT, { initrd: file('no-init.cpio', cpioArchive({ 'bin/sh': 'x' })) }),
    says: /the initrd has no \/init/,
  },
  {
    id: 'no-virtio-mmio',
    what: 'a kernel that never looks at its disk',
    config: () => panicking(NO_ROOT, { disks: [{ path: file('a.img', new Uint8Array(4096)) }] }),
    says: /never looked at its disk/,
  },
  {
    id: 'no-root',
    isText: true,
    what: 'neither initrd nor disk',
    config: () => panicking(NO_ROOT),
    says: /neither an initrd nor a disk/,
  },
  {
    id: 'root-not-found',
    isText: true,
    what: 'a disk that is not what root= says',
    // mov 0xd0000000,%eax through %ebx: the driver looks at the device.
    config: () =>
      panicking(NO_ROOT, { disks: [{ path: file('b.img', new Uint8Array(4096)) }] }, [
        0xbb,
        ...u32(0xd000_0000),
        0x8b,
        0x03,
      ]),
    says: /could not mount its root/,
  },
  {
    id: 'no-init',
    isText: true,
    what: 'an init that cannot be executed',
    config: () =>
      panicking('Kernel panic - not syncing: Requested init /sbin/oops failed (error -2).', {
        initrd: file('init.cpio', cpioArchive({ init: 'x' })),
      }),
    says: /no program to start as init/,
  },
  {
    id: 'init-ended',
    isText: true,
    what: 'an init that ends',
    config: () => panicking('Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000300'),
    says: /ended with status 3/,
  },
  {
    id: 'kernel-panic',
    what: 'a panic of which the table knows no more',
    config: () => panicking('Kernel panic - not syncing: the moon is full'),
    says: /panicked: the moon is full/,
  },
  {
    id: 'image-is-elf',
    what: 'an ELF file that is taken for a flat binary',
    config: () =>
      flat([
        ...elfImage({
          entry: 0n,
          segments: [{ paddr: 0n, bytes: Uint8Array.from({ length: 64 }, (_, i) => UD2[i % 2] as number) }],
        }),
      ]),
    says: /guest\.bin is an ELF file/,
  },
  {
    id: 'not-a-linux-image',
    what: 'an ELF kernel with no PVH note that is not made for long mode',
    config: () => linux(UD2, {}, elfNote('Other', 1, [])),
    says: /no PVH note/,
  },
  {
    id: () => (quirks().includes('xsave') ? 'unemulated-instruction' : undefined),
    what: "an instruction that this host's KVM cannot emulate",
    config: () => flat([0x0f, 0xae, 0x26, ...SPIN]),
    says: /cannot emulate xsave/,
  },
  {
    id: 'ran-through-zeros',
    what: 'a jump into memory where nothing was loaded',
    config: () => flat([0xe9, ...u32(0x8_0000)]),
    says: /ran through empty memory/,
  },
  {
    id: 'execution-outside-ram',
    what: 'a jump to where there is no RAM',
    config: () => flat([0xe9, ...u32(0xd010_0000 - PROTECTED - 5)]),
    says: /GPA 0xd0100000, where there is no RAM \(it has 2 MiB\)/,
  },
  {
    id: () => unlessLost('triple-fault-in-paging'),
    what: 'page tables that do not map the code',
    // mov $0x80000,%eax; mov %rax,%cr3; nop
    config: () => flat([0xb8, ...u32(0x8_0000), 0x0f, 0x22, 0xd8, 0x90], { entry: 'long' }),
    says: isSvm ? /registers are lost/ : /do not map the code itself/,
  },
  {
    id: () => unlessLost('exception-without-idt'),
    what: 'an exception before there is an IDT',
    config: () => flat(UD2),
    says: isSvm ? /registers are lost/ : /before the guest had an interrupt descriptor table.*ud2/,
  },
  {
    id: () => unlessLost('triple-fault'),
    what: 'an IDT whose gates are not present',
    // lidt LIMIT_AND_BASE; ud2; then 0x7ff and 0x90000
    config: () => flat([0x0f, 0x01, 0x1d, ...u32(PROTECTED + 9), ...UD2, 0xff, 0x07, ...u32(0x9_0000)]),
    says: isSvm ? /registers are lost/ : /a fault in its delivery/,
  },
  {
    id: 'halted-interrupts-off',
    what: 'hlt with interrupts off',
    config: () => flat([0xfa, 0xf4, 0xeb, 0xfd]),
    says: /halted with interrupts off at 0x10000[12]/,
  },
  {
    id: 'ended-before-command',
    what: 'a guest that is gone before its command ran',
    config: () => flat(RESET, { exec: { argv: ['true'] } }),
    says: /before its command had run/,
  },
];

/** These stand still: "or makes no progress for a while during boot". */
const STANDING: readonly Case[] = [
  {
    id: 'no-console',
    what: 'Linux without console=',
    config: () => linux(SPIN, { cmdline: 'quiet' }),
    says: /names no console/,
  },
  {
    id: 'silent-before-console',
    what: 'Linux that stops before its console is set up',
    config: () => linux(SPIN),
    says: /before its console was set up/,
  },
  {
    id: 'waits-for-clock',
    what: 'a wait for the HPET',
    config: () => flat([0xa1, ...u32(0xfed0_00f0), 0xeb, 0xf9]),
    says: /waits for the HPET/,
  },
  {
    id: 'waits-for-device',
    what: 'a wait for an ATA disk',
    config: () => flat([0xba, ...u32(0x1f7), 0xec, 0xeb, 0xfd]),
    says: /polls port 0x1f7/,
  },
  {
    id: 'spinning-interrupts-off',
    what: 'an endless loop with interrupts off',
    config: () => flat([0xfa, ...SPIN]),
    says: /runs in circles at 0x100001 with interrupts off/,
  },
  {
    id: 'spinning',
    what: 'an endless loop',
    config: () => flat([0xfb, 0x90, ...SPIN], { entry: 'real' }),
    says: /runs in circles at 0x7c02, and touches no device/,
  },
  {
    id: 'idle',
    what: 'a wait for an interrupt that does not come',
    config: () => flat([0xfb, 0xf4, 0xeb, 0xfd], { entry: 'real' }),
    says: /is idle at 0x7c0[12]/,
  },
];

/** Rows that no guest of a few bytes can provoke on every host; test/unit/machine/doctor.test.ts has them. */
const ELSEWHERE = ['vcpu-thread-crashed', 'kvm-entry-failed', 'console-not-read', 'triple-fault-state-lost'];

const idOf = ({ id }: Case): string | undefined => (typeof id === 'string' ? id : id());

async function start(config: VmConfig): Promise<Vm> {
  const vm = await createVm(config);
  vm.console.output.resume();
  await vm.start();
  return vm;
}

describe.skipIf(noKvm)('the boot doctor', () => {
  it.each(ENDING.filter(({ isText }) => !isSvm || isText === undefined))('$what', async (each) => {
    const id = idOf(each);
    if (id === undefined) return;
    const outcome = await (await start(each.config())).outcome;
    const diagnosis = outcome.kind === 'failed' ? outcome.diagnosis : undefined;
    expect(diagnosis?.causes[0]).toMatchObject({ id, cause: expect.stringMatching(each.says) as string });
    expect(diagnosis?.causes[0]?.remedy).not.toBe('');
  });

  it.each(STANDING)('$what', async (each) => {
    let onStall: (diagnosis: Diagnosis) => void = () => undefined;
    const stalled = new Promise<Diagnosis>((resolve) => (onStall = resolve));
    await using vm = await start({
      ...each.config(),
      onStall: (diagnosis) => onStall(diagnosis),
      stallAfterMs: STALL_MS,
    });
    const { causes } = await stalled;
    expect(causes[0]).toMatchObject({ id: idOf(each), cause: expect.stringMatching(each.says) as string });
    // Having been looked at, it goes on.
    expect(vm.state).toBe('running');
  });

  it('every row of the table has its test', () => {
    const tested = [...ENDING, ...STANDING].map(({ id }) => (typeof id === 'string' ? id : undefined));
    const byHost = ['unemulated-instruction', 'triple-fault-in-paging', 'exception-without-idt', 'triple-fault'];
    expect([...tested, ...byHost, ...ELSEWHERE].filter((id) => id !== undefined).toSorted()).toEqual(
      CAUSES.map(({ id }) => id).toSorted(),
    );
  });

  it('the report has exits by name, registers, page walk, disassembly, boot_params and e820 as placed', async () => {
    await using vm = await start({ ...linux([0xfa, ...SPIN]), trace: true });
    const diagnosis = await vm.diagnose();
    const [boot] = diagnosis.vcpus;
    expect(boot?.state?.mode).toBe('long');
    expect(boot?.state?.walk.steps.map(({ name }) => name)).toEqual(['PML4E', 'PDPTE', 'PDE']);
    expect(boot?.state?.code.instructions[0]?.text).toMatch(/^(cli|jmp)/);
    expect(diagnosis.boot.bootParams).toMatchObject({ header: '0x53726448', cmd_line_ptr: '0x20000' });
    expect(diagnosis.boot.e820).toContain('0x0-0x9fbff RAM');
    expect(diagnosis.boot.placed).toContain('0x7000-0x7fff boot_params');
    expect(JSON.parse(JSON.stringify(diagnosis))).toEqual({
      ...diagnosis,
      vcpus: [{ ...boot, symbol: undefined }].map((vcpu) => JSON.parse(JSON.stringify(vcpu)) as object),
    });
  });

  it('"last exits by name": from the trace, with the device that served them', async () => {
    const outcome = await (await start({ ...panicking('Kernel panic - not syncing: x'), trace: true })).outcome;
    const exits = outcome.kind === 'failed' ? outcome.diagnosis?.vcpus[0]?.lastExits : undefined;
    expect(exits?.at(-2)).toBe('KVM_EXIT_IO out 0x3f8 (COM1) = 0xa');
    expect(exits?.at(-1)).toBe('KVM_EXIT_IO out 0x608 (acpi-pm) = 0xf');
  });
});
