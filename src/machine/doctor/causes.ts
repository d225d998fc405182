// Why machines end badly or stand still: one row per known cause, the more telling ones first. Pure.
// Linux Documentation/admin-guide/kernel-parameters.txt, arch/x86/boot.rst; Intel SDM vol. 3A §6 (exceptions).
import { hex } from '../../vcpu/disassemble.js';
import type { VcpuState } from '../../vcpu/dump.js';
import { boot, control, flag, mostRead, type CauseRow, type DoctorEvidence } from './evidence.js';
import { TEXT_CAUSES } from './text-causes.js';

const RFLAGS_IF = 9;
const CR0_PG = 1n << 31n;
const ELF_WORD = 0x464c_457f;
const HPET = { base: 0xfed0_0000, size: 0x400 } as const;
/** Where chipsets and QEMU put the ACPI PM timer. */
const PM_TIMERS: readonly number[] = [0x408, 0x608, 0x808, 0x1008, 0x4008, 0xb008];
/** A place that takes this part of the accesses is polled. */
const POLLED = 0.4;
const POLLED_COUNT = 100;
/** So many of them behind RIP are no accident. */
const ZEROS = 64;
const LINUX: ReadonlySet<string> = new Set(['elf-linux', 'bzimage']);

const isStandingStill = ({ failure }: DoctorEvidence): boolean => failure === undefined;
const failed = ({ failure }: DoctorEvidence, kind: string): boolean => failure?.kind === kind;
const isLinux = ({ kernel }: DoctorEvidence): boolean => LINUX.has(kernel.format);

/** The vCPU that failed: the first one whose run ended by itself. */
function culprit({ vcpus, stops }: DoctorEvidence): VcpuState | undefined {
  const index = stops.findIndex((stop) => stop !== undefined && stop.kind !== 'kicked' && stop.kind !== 'pending');
  return vcpus[Math.max(index, 0)];
}

function bytesAtRip(state: VcpuState | undefined): readonly number[] {
  return state === undefined || state.code.bytes === ''
    ? []
    : state.code.bytes.split(' ').map((byte) => Number.parseInt(byte, 16));
}

/** On SVM a shutdown leaves no state, and KVM resets the vCPU before it tells. */
function isReset(state: VcpuState | undefined): boolean {
  return state?.mode === 'real' && state.regs['rip'] === '0xfff0' && state.segments['cs']?.selector === 0xf000;
}

function isInRam({ memory }: DoctorEvidence, state: VcpuState): boolean {
  return state.walk.gpa !== undefined && memory.contains(Number(state.walk.gpa), 1);
}

export const CAUSES: readonly CauseRow[] = [
  {
    id: 'device-failed',
    find: ({ failure }) =>
      failure?.kind === 'device-failed'
        ? {
            cause: `a device of this machine threw: ${failure.message}`,
            remedy: 'mend the device; the guest did nothing wrong',
          }
        : undefined,
  },
  {
    id: 'vcpu-thread-crashed',
    find: ({ failure }) =>
      failure?.kind === 'vcpu-thread-crashed'
        ? {
            cause: failure.message,
            remedy: 'the host failed, not the guest: is there memory left, and are all descriptors its own?',
          }
        : undefined,
  },
  ...TEXT_CAUSES,
  {
    id: 'image-is-elf',
    find({ kernel, memory }) {
      const image = kernel.placed.find(({ name }) => name === 'flat binary');
      if (image === undefined || image.size < 4 || memory.readU32(image.base) !== ELF_WORD) return undefined;
      return {
        cause: `${kernel.name} is an ELF file, but it was loaded as a flat binary and entered at its header`,
        remedy:
          'leave --entry out, so that its own entry point is taken; or make a flat binary of it: objcopy -O binary',
      };
    },
  },
  {
    id: 'not-a-linux-image',
    find(evidence) {
      const { kernel, failure, console } = evidence;
      if (kernel.format !== 'elf-linux' || failure?.kind !== 'triple-fault' || !console.isSilent) return undefined;
      return {
        cause: `${kernel.name} has no PVH note, so it was entered in long mode as Linux is, and it failed before it printed anything`,
        remedy:
          'give a kernel that expects 32-bit protected mode a PVH note (XEN_ELFNOTE_PHYS32_ENTRY) or a multiboot header',
      };
    },
  },
  {
    id: 'ran-through-zeros',
    find(evidence) {
      const state = culprit(evidence);
      if (state === undefined || evidence.failure === undefined || state.walk.gpa === undefined) return undefined;
      // Zeros are an instruction of two bytes, add %al,(%rax): a guest that jumps among them runs on until they end.
      const before = Number(state.walk.gpa) - ZEROS;
      if (!bytesAtRip(state).every((byte) => byte === 0) || !evidence.memory.contains(before, ZEROS)) return undefined;
      if (!evidence.memory.read(before, ZEROS).every((byte) => byte === 0)) return undefined;
      return {
        cause: `the guest ran through empty memory (zeros) up to ${state.code.linear}: it jumped to where nothing was loaded`,
        remedy: 'is the image linked for the address at which it is loaded (--load), and loaded whole?',
      };
    },
  },
  {
    id: 'unemulated-instruction',
    find({ unassisted }) {
      if (unassisted === undefined || unassisted.bytes === '') return undefined;
      const { text, rip, bytes, suggestion } = unassisted;
      return {
        cause: `this host's KVM cannot emulate ${text} (${bytes}) at ${rip}`,
        remedy: suggestion ?? 'keep the guest away from this instruction; microvisor check lists what this host lacks',
      };
    },
  },
  {
    id: 'execution-outside-ram',
    find(evidence) {
      const state = culprit(evidence);
      if (state === undefined || evidence.failure === undefined || isReset(state)) return undefined;
      if (state.walk.gpa === undefined || isInRam(evidence, state)) return undefined;
      return {
        cause: `the guest executes at GPA ${state.walk.gpa}, where there is no RAM (it has ${evidence.memory.size / 2 ** 20} MiB)`,
        remedy: 'a bad jump, or an image that believes in more memory: link it lower, or give it more with --mem',
      };
    },
  },
  {
    id: 'triple-fault-in-paging',
    find(evidence) {
      const state = culprit(evidence);
      if (!failed(evidence, 'triple-fault') || state === undefined || (control(state, 'cr0') & CR0_PG) === 0n)
        return undefined;
      if (state.walk.fault === undefined) return undefined;
      return {
        cause: `paging is on, and its tables at CR3 ${state.control['cr3']} do not map the code itself: RIP ${state.code.linear} is ${state.walk.fault}`,
        remedy: 'map the page that switches paging on to itself as well, and look at the walk of RIP below',
      };
    },
  },
  {
    id: 'exception-without-idt',
    find(evidence) {
      const state = culprit(evidence);
      const idt = state?.tables['idt'];
      if (!failed(evidence, 'triple-fault') || state === undefined || idt === undefined || isReset(state))
        return undefined;
      if (state.mode === 'real' || idt.limit >= 8 * 32 - 1) return undefined;
      const [first] = state.code.instructions;
      return {
        cause: `an exception came before the guest had an interrupt descriptor table (limit ${idt.limit}), at ${state.code.linear}${first === undefined ? '' : `: ${first.text}`}`,
        remedy: 'load an IDT with lidt before anything can fault, and look at what the instruction at RIP did',
      };
    },
  },
  {
    id: 'triple-fault-state-lost',
    find: (evidence) =>
      failed(evidence, 'triple-fault') && isReset(culprit(evidence))
        ? {
            cause: "the guest triple-faulted, and with AMD's SVM its registers are lost with that",
            remedy: 'run it with --gdb --wait, and step or break before the place; or run it where there is VMX',
          }
        : undefined,
  },
  {
    id: 'triple-fault',
    isGeneral: true,
    find(evidence) {
      const state = culprit(evidence);
      if (!failed(evidence, 'triple-fault') || state === undefined) return undefined;
      const cr2 = control(state, 'cr2');
      return {
        cause: `a fault, a fault in its delivery, and one in that: at ${state.code.linear}${cr2 === 0n ? '' : `, last page fault at ${hex(cr2)}`}`,
        remedy: 'are the gates of vectors 8, 13 and 14 present, their code mapped, and the stack (TSS, IST) good?',
      };
    },
  },
  {
    id: 'kvm-entry-failed',
    find: (evidence) =>
      failed(evidence, 'kvm-entry-failed')
        ? {
            cause: 'the processor refused the guest state with which it was to go on',
            remedy: 'look for segments, control registers and EFER below that contradict each other',
          }
        : undefined,
  },
  {
    id: 'no-console',
    find(evidence) {
      if (!isLinux(evidence) || !evidence.console.isSilent) return undefined;
      if (/\b(console=(ttyS0|hvc0|uart)|earlyprintk=|earlycon)/.test(evidence.kernel.cmdline)) return undefined;
      return {
        cause: 'the kernel command line names no console, so whatever happened was printed nowhere',
        remedy: "add console=ttyS0 to the command line: --append 'console=ttyS0 earlyprintk=ttyS0'",
      };
    },
  },
  {
    id: 'silent-before-console',
    find(evidence) {
      if (!isLinux(evidence) || !evidence.console.isSilent || /\bearly(printk|con)/.test(evidence.kernel.cmdline))
        return undefined;
      return {
        cause: 'the kernel stopped before its console was set up',
        remedy: "add --append 'earlyprintk=ttyS0' to see what it says before",
      };
    },
  },
  {
    id: 'console-not-read',
    find: (evidence) =>
      isStandingStill(evidence) && evidence.console.isFull
        ? {
            cause: 'the guest waits until its console output is read, and nobody reads it',
            remedy: "read vm.console.output, or create the machine with consoleOverflow: 'drop'",
          }
        : undefined,
  },
  {
    id: 'waits-for-clock',
    find(evidence) {
      const place = mostRead(evidence);
      if (place === undefined || place.share < POLLED || place.count < POLLED_COUNT) return undefined;
      const isHpet = place.space === 'mmio' && place.address >= HPET.base && place.address < HPET.base + HPET.size;
      const isPmTimer = place.space === 'port' && PM_TIMERS.includes(place.address) && place.device === 'nobody';
      if (!isHpet && !isPmTimer) return undefined;
      const clock = isHpet ? 'the HPET' : 'an ACPI PM timer';
      return {
        cause: `the guest waits for ${clock} at ${hex(place.address)}, and this machine has none (read ${place.count} times)`,
        remedy:
          'it has a PIT, local APIC timers, the TSC and kvmclock: for Linux leave hpet= and clocksource= out, or say clocksource=kvm-clock',
      };
    },
  },
  {
    id: 'waits-for-device',
    find(evidence) {
      const place = mostRead(evidence);
      if (place === undefined || place.share < POLLED || place.count < POLLED_COUNT || place.device !== 'nobody')
        return undefined;
      return {
        cause: `the guest polls ${place.space === 'port' ? 'port' : 'address'} ${hex(place.address)}, where this machine has no device (read ${place.count} times)`,
        remedy: 'leave the driver out, or attach a device there: VmConfig.devices',
      };
    },
  },
  {
    id: 'halted-interrupts-off',
    isGeneral: true,
    find: (evidence) =>
      failed(evidence, 'all-cpus-halted')
        ? {
            cause: `every processor is halted with interrupts off${at(boot(evidence))}: nothing can wake the guest any more`,
            remedy:
              'a guest that is done should power off (port 0x604), reset, or write to port 0xf4; one that waits needs sti before hlt',
          }
        : undefined,
  },
  {
    id: 'spinning-interrupts-off',
    isGeneral: true,
    find(evidence) {
      const state = boot(evidence);
      if (!isStandingStill(evidence) || state === undefined || state.cpl === 3 || flag(state, RFLAGS_IF))
        return undefined;
      return {
        cause: `the guest runs in circles${at(state)} with interrupts off, so no timer can get it out of there`,
        remedy: 'a lock that nobody releases, or a wait for what only an interrupt brings: look at the code below',
      };
    },
  },
  {
    id: 'idle',
    isGeneral: true,
    find(evidence) {
      const state = boot(evidence);
      if (!isStandingStill(evidence) || state === undefined || state.mpState !== MP_HALTED || !flag(state, RFLAGS_IF))
        return undefined;
      return {
        cause: `the guest is idle${at(state)}: it waits for an interrupt that does not come`,
        remedy:
          'a guest at a prompt is in order; else, is the interrupt enabled at the PIC, the IOAPIC and the device?',
      };
    },
  },
  {
    id: 'spinning',
    isGeneral: true,
    find(evidence) {
      const state = boot(evidence);
      if (!isStandingStill(evidence) || state === undefined || state.mpState !== MP_RUNNABLE) return undefined;
      return {
        cause: `the guest runs in circles${at(state)}, and touches no device`,
        remedy: 'look at the code below, or watch it with --gdb',
      };
    },
  },
  {
    id: 'ended-before-command',
    find: (evidence) =>
      failed(evidence, 'no-command-status')
        ? {
            cause: 'the guest switched itself off before its command had run',
            remedy: 'add --verbose to see its boot messages; has its initrd the agent of the default guest?',
          }
        : undefined,
  },
];

const MP_RUNNABLE = 0;
const MP_HALTED = 3;

function at(state: VcpuState | undefined): string {
  return state === undefined ? '' : ` at ${state.code.linear}`;
}
