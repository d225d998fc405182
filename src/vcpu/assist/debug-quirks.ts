// Where a host's KVM gives a debugger less than a processor would: rows as in quirks.ts, for gdb and for `check`.
// KVM API 4.87 (KVM_SET_GUEST_DEBUG); Intel SDM vol. 3B §17.2 (debug registers).
import {
  KVM_GUESTDBG_ENABLE,
  KVM_GUESTDBG_SINGLESTEP,
  KVM_GUESTDBG_USE_HW_BP,
  KVM_GUESTDBG_USE_SW_BP,
} from '../../kvm/abi.js';
import { MICRO_CODE, MICRO_DATA, type MicroGuest } from './micro-guest.js';
import { describeOutcome, type ProbeResult, type Quirk } from './quirk.js';

const NOPS = [0x90, 0x90, 0x90];

export const DEBUG_QUIRKS: readonly Quirk[] = [
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
];

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
  return {
    present: outcome.kind !== 'debug' && outcome.kind !== 'emulation-failure',
    evidence: describeOutcome(outcome),
  };
}

/** @param kind R/W and LEN of DR7 */
function debugRegister(address: number, kind: number): Pick<DebugProbe, 'control' | 'debugreg'> {
  const dr7 = 0x702n | (BigInt(kind) << 16n);
  return { control: KVM_GUESTDBG_USE_HW_BP, debugreg: [BigInt(address), 0n, 0n, 0n, 0n, 0n, 0n, dr7] };
}
