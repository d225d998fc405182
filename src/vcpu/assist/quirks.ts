// Where a host's KVM falls short of a processor: rows of symptom, probe, remedy and what Linux must be told.
// Intel SDM vol. 2 (the instructions); Linux Documentation/admin-guide/kernel-parameters.txt (the options).
import {
  KVM_GUESTDBG_ENABLE,
  KVM_GUESTDBG_SINGLESTEP,
  KVM_GUESTDBG_USE_HW_BP,
  KVM_GUESTDBG_USE_SW_BP,
} from '../../kvm/abi.js';
import type { CpuidEntry } from '../../kvm/entries.js';
import { MSR_LSTAR, MSR_STAR, MSR_SYSCALL_MASK } from '../../kvm/msr.js';
import { hex } from '../disassemble.js';
import {
  MICRO_CODE,
  MICRO_DATA,
  MICRO_KERNEL_ALIAS,
  MICRO_SECOND_CODE,
  MICRO_SELECTOR,
  type MicroGuest,
  type MicroMode,
  type MicroOutcome,
} from './micro-guest.js';

export interface ProbeResult {
  readonly present: boolean;
  /** What the micro-guest did, in a few words. */
  readonly evidence: string;
}

/** An option for a Linux guest on a host with the quirk. */
export interface KernelOption {
  /** A whole option, or a feature for the one `clearcpuid=` that all rows share. */
  readonly option: string | { readonly clearcpuid: string };
  readonly why: string;
}

export interface Quirk {
  readonly id: string;
  readonly symptom: string;
  readonly remedy: string;
  readonly kernelOptions: readonly KernelOption[];
  /** Who needs to know: every run, a run with a debugger, or only the reader of `check`. */
  readonly neededBy: 'run' | 'debugger' | 'check';
  readonly probe: (guest: MicroGuest, presentSoFar: ReadonlySet<string>) => ProbeResult;
}

/** CPUID bits that probes withhold from their micro-guest to see whether it finds them all the same. */
const MASKED_LEAF_1_ECX = 1 << 23; // POPCNT
const MASKED_LEAF_7_EBX = 1 << 9; // ERMS

/** KVM's supported CPUID without the bits that the masking probe looks for. */
export function probeCpuid(supported: readonly CpuidEntry[]): CpuidEntry[] {
  return supported.map((entry) => {
    if (entry.function === 1) return { ...entry, ecx: (entry.ecx & ~MASKED_LEAF_1_ECX) >>> 0 };
    if (entry.function === 7 && entry.index === 0) return { ...entry, ebx: (entry.ebx & ~MASKED_LEAF_7_EBX) >>> 0 };
    return entry;
  });
}

const ASSISTED = 'the assist performs it';
const NOPS = [0x90, 0x90, 0x90];

/** A quirk of one instruction at CPL 0: present when KVM hands it back, absent when it ran or raised an exception. */
function instruction(
  id: string,
  name: string,
  code: readonly number[],
  remedy: string,
  kernelOptions: readonly KernelOption[] = [],
): Quirk {
  return {
    id,
    symptom: `${name} at CPL 0 ends the run: KVM_INTERNAL_ERROR_EMULATION`,
    remedy,
    kernelOptions,
    neededBy: 'run',
    probe: (guest) => emulationFails(guest, code, ['long']),
  };
}

const clear = (feature: string, why: string): KernelOption => ({ option: { clearcpuid: feature }, why });

/** Linux hands what it does not know itself to init as its environment; glibc then chooses functions without AVX. */
const WITHOUT_AVX = 'GLIBC_TUNABLES=glibc.cpu.hwcaps=-AVX,-AVX2,-AVX512F,-AVX512VL,-AVX512BW,-AVX_Fast_Unaligned_Load';

export const QUIRKS: readonly Quirk[] = [
  {
    id: 'int3',
    symptom: 'int3 at CPL 0 ends the run: KVM_INTERNAL_ERROR_EMULATION',
    remedy: 'the assist injects #BP with RIP after it; an int3 of a debugger goes to the debugger',
    kernelOptions: [],
    neededBy: 'run',
    probe: (guest) => emulationFails(guest, [0xcc], ['long']),
  },
  {
    id: 'kernel-emulated',
    symptom: 'code at CPL 0 runs in an instruction emulator, some hundred times slower than a processor',
    remedy: 'a small kernel, and options that spare it work',
    kernelOptions: [
      { option: 'noreplace-smp', why: 'removing and restoring LOCK prefixes is one slow text patch for each' },
      { option: 'percpu_alloc=page', why: 'the default allocator reserves and copies larger areas' },
      { option: 'rodata=off', why: 'making kernel text read-only splits large mappings page by page' },
      { option: 'mitigations=off', why: 'mitigations add code to each entry, among it verw, which is not emulated' },
      { option: 'retain_initrd', why: 'freeing the initrd touches each of its pages' },
      clear('erms', 'rep movsb and rep stosb move one byte a step there, the quadword forms eight'),
      clear('fsrm', 'rep movsb moves one byte a step there, a quadword copy eight'),
    ],
    neededBy: 'run',
    probe: (_guest, present) =>
      present.has('int3')
        ? { present: true, evidence: 'int3 came to the emulator' }
        : { present: false, evidence: 'int3 ran on the processor' },
  },
  instruction('fwait', 'fwait', [0x9b], 'the assist steps over it, or raises #NM'),
  instruction('clac', 'clac', [0x0f, 0x01, 0xca], ASSISTED, [
    clear('smap', 'spares an exit at each access to user memory'),
  ]),
  instruction('stac', 'stac', [0x0f, 0x01, 0xcb], ASSISTED, [
    clear('smap', 'spares an exit at each access to user memory'),
  ]),
  instruction('popcnt', 'popcnt', [0xf3, 0x48, 0x0f, 0xb8, 0xc3], ASSISTED, [
    clear('popcnt', 'the kernel then counts bits by additions, without an exit'),
  ]),
  instruction(
    'cmpxchg16b',
    'cmpxchg16b',
    [0xf0, 0x48, 0x0f, 0xc7, 0x0e],
    'the assist performs it, serialized with the other vCPUs',
    [clear('cx16', 'the slab allocator then takes a lock, without an exit')],
  ),
  instruction(
    'xsave',
    'xsave',
    [0x0f, 0xae, 0x26],
    "none; Linux must use fxsave, and programs must not use AVX: its registers are then nobody's",
    [
      clear('xsave', 'the kernel then saves the FPU with fxsave, which KVM has'),
      { option: WITHOUT_AVX, why: 'programs still see AVX, and a kernel without xsave mixes up their AVX registers' },
    ],
  ),
  instruction('xrstor', 'xrstor', [0x31, 0xc0, 0x31, 0xd2, 0x0f, 0xae, 0x2e], 'none; Linux must use fxrstor', [
    clear('xsave', 'the kernel then restores the FPU with fxrstor, which KVM has'),
  ]),
  instruction('rdtscp', 'rdtscp', [0x0f, 0x01, 0xf9], 'none; Linux must use rdtsc', [
    clear('rdtscp', 'the kernel then reads the clock with rdtsc'),
  ]),
  {
    id: 'int-n',
    symptom: 'int n at CPL 0 in protected or long mode ends the run: KVM_INTERNAL_ERROR_EMULATION',
    remedy: 'the assist delivers the vector through the IDT',
    kernelOptions: [],
    neededBy: 'run',
    probe: (guest) => emulationFails(guest, [0xcd, 0x30], ['long', 'protected']),
  },
  {
    id: 'syscall',
    symptom: 'syscall leaves CPL at 3, so that the fetch at LSTAR faults',
    remedy: 'a hardware breakpoint on the #PF handler, where the assist turns that fault into the entry',
    kernelOptions: [],
    neededBy: 'run',
    probe: probeSyscall,
  },
  {
    id: 'int80-user',
    symptom: 'int $0x80 at CPL 3 raises #UD in the guest',
    remedy: 'none; 64-bit programs, which use syscall',
    kernelOptions: [],
    neededBy: 'check',
    probe(guest) {
      const outcome = guest.attempt({ mode: 'long', cpl: 3, code: [0xcd, 0x80] });
      return { present: !isVector(outcome, 0x80), evidence: describe(outcome) };
    },
  },
  {
    id: 'cpuid-masking',
    symptom: 'the guest sees CPUID features of the machine that KVM_SET_CPUID2 withholds',
    remedy: 'clearcpuid= for the features that do not work, by their own rows',
    kernelOptions: [],
    neededBy: 'run',
    probe: probeCpuidMasking,
  },
  {
    id: 'hardware-breakpoint',
    symptom: 'hardware breakpoints of KVM_SET_GUEST_DEBUG are passed over at CPL 0',
    remedy: 'gdb: the guest is stepped from one to the next, very slowly; the remedy for syscall needs them',
    kernelOptions: [],
    neededBy: 'debugger',
    probe: (guest) => debugExits(guest, { cpl: 0, code: NOPS, ...debugRegister(MICRO_CODE + 1, 0) }),
  },
  {
    id: 'user-hardware-breakpoint',
    symptom: 'hardware breakpoints of KVM_SET_GUEST_DEBUG are passed over at CPL 3',
    remedy: 'none; break in the kernel',
    kernelOptions: [],
    neededBy: 'check',
    probe: (guest) => debugExits(guest, { cpl: 3, code: NOPS, ...debugRegister(MICRO_CODE + 1, 0) }),
  },
  {
    id: 'watchpoint',
    symptom: 'watchpoints of KVM_SET_GUEST_DEBUG are passed over at CPL 0',
    remedy: 'gdb: where steps work the guest is stepped, very slowly; else set can-use-hw-watchpoints 0',
    kernelOptions: [],
    neededBy: 'debugger',
    // movb $0x55,(%rsi); nop
    probe: (guest) =>
      debugExits(guest, { cpl: 0, code: [0xc6, 0x06, 0x55, 0x90], ...debugRegister(MICRO_DATA, 0b0001) }),
  },
  {
    id: 'breakpoint-exit',
    symptom: 'int3 at CPL 0 reaches the guest in spite of KVM_GUESTDBG_USE_SW_BP',
    remedy: 'gdb: hardware breakpoints in their place, or the guest is stepped',
    kernelOptions: [],
    neededBy: 'debugger',
    probe: (guest) => debugExits(guest, { cpl: 0, code: [0xcc], control: KVM_GUESTDBG_USE_SW_BP }),
  },
  {
    id: 'user-breakpoint-exit',
    symptom: 'int3 at CPL 3 reaches the guest in spite of KVM_GUESTDBG_USE_SW_BP',
    remedy: 'none; break in the kernel',
    kernelOptions: [],
    neededBy: 'check',
    probe: (guest) => debugExits(guest, { cpl: 3, code: [0xcc], control: KVM_GUESTDBG_USE_SW_BP }),
  },
  {
    id: 'user-single-step',
    symptom: 'KVM_GUESTDBG_SINGLESTEP at CPL 3 reaches the guest as #DB instead of making an exit',
    remedy: 'none; gdb refuses such a step',
    kernelOptions: [],
    neededBy: 'debugger',
    probe: (guest) => debugExits(guest, { cpl: 3, code: NOPS, control: KVM_GUESTDBG_SINGLESTEP }),
  },
  {
    id: 'vmcall',
    symptom: 'vmcall at CPL 0 never completes',
    remedy: "CPUID offers none of KVM's features that use it; leave others (PTP clock) out of the guest kernel",
    kernelOptions: [],
    neededBy: 'run',
    probe(guest) {
      // KVM_HC_VAPIC_POLL_IRQ, which does nothing but return 0.
      const program = { mode: 'long', cpl: 0, code: [0x0f, 0x01, 0xc1], regs: { rax: 1n } } as const;
      const outcome = guest.attempt(program, undefined, 2);
      return { present: outcome.kind === 'spins', evidence: describe(outcome) };
    },
  },
];

function emulationFails(guest: MicroGuest, code: readonly number[], modes: readonly MicroMode[]): ProbeResult {
  const evidence: string[] = [];
  for (const mode of modes) {
    guest.memory.fill(MICRO_DATA, 0x1000);
    const outcome = guest.attempt({ mode, cpl: 0, code });
    evidence.push(`${mode} mode: ${describe(outcome)}`);
    if (outcome.kind === 'emulation-failure') return { present: true, evidence: evidence.join('; ') };
  }
  return { present: false, evidence: evidence.join('; ') };
}

/** The entry lies where CPL 3 may not fetch: only a `syscall` that really enters CPL 0 reaches its end. */
function probeSyscall(guest: MicroGuest): ProbeResult {
  const lstar = MICRO_KERNEL_ALIAS + MICRO_SECOND_CODE;
  const outcome = guest.attempt({ mode: 'long', cpl: 3, code: [0x0f, 0x05] }, () => {
    // out %al, $DONE; jmp .
    guest.memory.write(MICRO_SECOND_CODE, Uint8Array.of(0xe6, 0xff, 0xeb, 0xfe));
    guest.vcpu.setMsrs([
      { index: MSR_LSTAR, data: BigInt(lstar) },
      { index: MSR_STAR, data: BigInt(MICRO_SELECTOR.kernelCode) << 32n },
      { index: MSR_SYSCALL_MASK, data: 0x3000n },
    ]);
  });
  const present = isVector(outcome, 14) && outcome.kind === 'vector' && outcome.rip === BigInt(lstar);
  return { present, evidence: describe(outcome) };
}

function probeCpuidMasking(guest: MicroGuest): ProbeResult {
  const outcome = guest.attempt({
    mode: 'long',
    cpl: 0,
    // mov $1,%eax; cpuid; mov %ecx,%esi; mov $7,%eax; xor %ecx,%ecx; cpuid
    code: [0xb8, 1, 0, 0, 0, 0x0f, 0xa2, 0x89, 0xce, 0xb8, 7, 0, 0, 0, 0x31, 0xc9, 0x0f, 0xa2],
  });
  if (outcome.kind !== 'done') return { present: false, evidence: describe(outcome) };
  const { rsi, rbx } = guest.vcpu.getRegs();
  const seen1 = Number(rsi & 0xffff_ffffn);
  const seen7 = Number(rbx & 0xffff_ffffn);
  return {
    present: ((seen1 & MASKED_LEAF_1_ECX) | (seen7 & MASKED_LEAF_7_EBX)) !== 0,
    evidence: `POPCNT and ERMS withheld; the guest reads leaf 1 ECX ${hex(seen1)}, leaf 7 EBX ${hex(seen7)}`,
  };
}

interface DebugProbe {
  readonly cpl: 0 | 3;
  readonly code: readonly number[];
  /** KVM_GUESTDBG_*, without ENABLE. */
  readonly control: number;
  readonly debugreg?: readonly bigint[];
}

/** Absent where the exit comes, be it as an instruction that the debugger must recognize by itself. */
function debugExits(guest: MicroGuest, { cpl, code, control, debugreg = [] }: DebugProbe): ProbeResult {
  const outcome = guest.attempt({ mode: 'long', cpl, code }, () =>
    guest.vcpu.setGuestDebug({ control: KVM_GUESTDBG_ENABLE | control, debugreg }),
  );
  guest.vcpu.setGuestDebug({ control: 0 });
  return { present: outcome.kind !== 'debug' && outcome.kind !== 'emulation-failure', evidence: describe(outcome) };
}

/** @param kind R/W and LEN of DR7 */
function debugRegister(address: number, kind: number): Pick<DebugProbe, 'control' | 'debugreg'> {
  const dr7 = 0x702n | (BigInt(kind) << 16n);
  return { control: KVM_GUESTDBG_USE_HW_BP, debugreg: [BigInt(address), 0n, 0n, 0n, 0n, 0n, 0n, dr7] };
}

function isVector(outcome: MicroOutcome, vector: number): boolean {
  return outcome.kind === 'vector' && outcome.vector === vector;
}

function describe(outcome: MicroOutcome): string {
  switch (outcome.kind) {
    case 'done':
      return 'ran';
    case 'vector':
      return `vector ${outcome.vector} with RIP ${hex(outcome.rip)}`;
    case 'spins':
      return `still at RIP ${hex(outcome.rip)} when the timer came`;
    case 'emulation-failure':
      return 'KVM_INTERNAL_ERROR_EMULATION';
    case 'debug':
      return 'KVM_EXIT_DEBUG';
    case 'other':
      return `exit reason ${outcome.exitReason}`;
  }
}
