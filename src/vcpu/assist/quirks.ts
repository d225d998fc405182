// Where a host's KVM falls short of a processor: rows of symptom, probe, remedy and what Linux must be told.
// Intel SDM vol. 2 (the instructions); Linux Documentation/admin-guide/kernel-parameters.txt (the options).
import type { CpuidEntry } from '../../kvm/entries.js';
import { MSR_LSTAR, MSR_STAR, MSR_SYSCALL_MASK } from '../../kvm/msr.js';
import { hex } from '../disassemble.js';
import { DEBUG_QUIRKS } from './debug-quirks.js';
import {
  MICRO_DATA,
  MICRO_KERNEL_ALIAS,
  MICRO_SECOND_CODE,
  MICRO_SELECTOR,
  type MicroGuest,
  type MicroMode,
  type MicroOutcome,
} from './micro-guest.js';
import { describeOutcome, type KernelOption, type ProbeResult, type Quirk } from './quirk.js';

export type { KernelOption, Quirk } from './quirk.js';

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
    remedy: 'a small kernel, options that spare it work, and longer turns for the threads of vCPUs',
    kernelOptions: [
      { option: 'noreplace-smp', why: 'removing and restoring LOCK prefixes is one slow text patch for each' },
      { option: 'percpu_alloc=page', why: 'the default allocator reserves and copies larger areas' },
      { option: 'rodata=off', why: 'making kernel text read-only splits large mappings page by page' },
      { option: 'mitigations=off', why: 'mitigations add code to each entry, among it verw, which is not emulated' },
      { option: 'retain_initrd', why: 'freeing the initrd touches each of its pages' },
      {
        option: 'rcupdate.rcu_cpu_stall_suppress=1',
        why: 'a vCPU that waits long for its turn is asked by an NMI where it is, whose entry needs lsl: not emulated',
      },
      {
        option: 'clocksource=kvm-clock',
        why: 'a snapshot sets that clock; by the TSC a restored guest has to count each second that has passed since',
      },
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
      return { present: !isVector(outcome, 0x80), evidence: describeOutcome(outcome) };
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
  ...DEBUG_QUIRKS,
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
      return { present: outcome.kind === 'spins', evidence: describeOutcome(outcome) };
    },
  },
];

function emulationFails(guest: MicroGuest, code: readonly number[], modes: readonly MicroMode[]): ProbeResult {
  const evidence: string[] = [];
  for (const mode of modes) {
    guest.memory.fill(MICRO_DATA, 0x1000);
    const outcome = guest.attempt({ mode, cpl: 0, code });
    evidence.push(`${mode} mode: ${describeOutcome(outcome)}`);
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
  return { present, evidence: describeOutcome(outcome) };
}

function probeCpuidMasking(guest: MicroGuest): ProbeResult {
  const outcome = guest.attempt({
    mode: 'long',
    cpl: 0,
    // mov $1,%eax; cpuid; mov %ecx,%esi; mov $7,%eax; xor %ecx,%ecx; cpuid
    code: [0xb8, 1, 0, 0, 0, 0x0f, 0xa2, 0x89, 0xce, 0xb8, 7, 0, 0, 0, 0x31, 0xc9, 0x0f, 0xa2],
  });
  if (outcome.kind !== 'done') return { present: false, evidence: describeOutcome(outcome) };
  const { rsi, rbx } = guest.vcpu.getRegs();
  const seen1 = Number(rsi & 0xffff_ffffn);
  const seen7 = Number(rbx & 0xffff_ffffn);
  return {
    present: ((seen1 & MASKED_LEAF_1_ECX) | (seen7 & MASKED_LEAF_7_EBX)) !== 0,
    evidence: `POPCNT and ERMS withheld; the guest reads leaf 1 ECX ${hex(seen1)}, leaf 7 EBX ${hex(seen7)}`,
  };
}

function isVector(outcome: MicroOutcome, vector: number): boolean {
  return outcome.kind === 'vector' && outcome.vector === vector;
}
