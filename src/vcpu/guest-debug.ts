// The one owner of a vCPU's guest-debug facility: composes KVM_SET_GUEST_DEBUG from what its users want.
// KVM API 4.87 (KVM_SET_GUEST_DEBUG), Intel SDM vol. 3B §17.2 (debug registers).
import {
  KVM_GUESTDBG_BLOCKIRQ,
  KVM_GUESTDBG_ENABLE,
  KVM_GUESTDBG_SINGLESTEP,
  KVM_GUESTDBG_USE_HW_BP,
  KVM_GUESTDBG_USE_SW_BP,
} from '../kvm/abi.js';
import type { VcpuFd } from '../kvm/vcpu-fd.js';

/** Who may ask, in the order in which debug registers are given out. */
export const DEBUG_USERS = ['syscall-remedy', 'debugger'] as const;
export type DebugUser = (typeof DEBUG_USERS)[number];

export interface HardwareBreakpoint {
  /** Linear address. */
  readonly address: bigint;
  /** Default: execute. */
  readonly kind?: keyof typeof KINDS;
  /** Bytes watched: 1, 2, 4 or 8. An execute breakpoint has 1, the default. */
  readonly length?: keyof typeof LENGTHS;
}

/** All that one user wants; what is left out is not wanted. */
export interface DebugRequest {
  readonly breakpoints?: readonly HardwareBreakpoint[];
  readonly singleStep?: boolean;
  /** No interrupt is delivered meanwhile; kernels before 5.16 do not know of it. */
  readonly blocksInterrupts?: boolean;
  /** Whether an `int3` exits instead of reaching the guest. */
  readonly softwareBreakpoints?: boolean;
}

/** R/W field of DR7. */
const KINDS = { execute: 0b00n, write: 0b01n, access: 0b11n } as const;
/** LEN field of DR7. */
const LENGTHS = { 1: 0b00n, 2: 0b01n, 4: 0b11n, 8: 0b10n } as const;
export const DEBUG_REGISTERS = 4;
/** Bit 10 of DR7 is fixed to 1; LE and GE (bits 8, 9) ask for exact data breakpoints. */
const DR7_FIXED = 0x700n;

export class GuestDebug {
  readonly #requests = new Map<DebugUser, DebugRequest>();
  /** Which user has debug register 0 … 3, and for what. */
  #registers: readonly { readonly name: DebugUser; readonly breakpoint: HardwareBreakpoint }[] = [];

  constructor(private readonly vcpu: VcpuFd) {}

  /**
   * Replaces what `user` wanted before; one ioctl.
   * @throws RangeError when more than four breakpoints are wanted in all; then nothing has changed
   */
  request(user: DebugUser, request: DebugRequest): void {
    const wanted = new Map(this.#requests).set(user, request);
    const all = DEBUG_USERS.flatMap((name) =>
      (wanted.get(name)?.breakpoints ?? []).map((breakpoint) => ({ name, breakpoint })),
    );
    if (all.length > DEBUG_REGISTERS)
      throw new RangeError(
        `vCPU ${this.vcpu.id} has ${DEBUG_REGISTERS} hardware breakpoints, ${all.length} are wanted; remove one first`,
      );
    this.vcpu.setGuestDebug({
      control: controlOf([...wanted.values()], all.length > 0),
      debugreg: debugRegisters(all.map(({ breakpoint }) => breakpoint)),
    });
    this.#requests.set(user, request);
    this.#registers = all;
  }

  /** The breakpoint in debug register `index`, by the hit bits of DR6, if it is this user's. */
  breakpointOf(user: DebugUser, index: number): HardwareBreakpoint | undefined {
    const register = this.#registers[index];
    return register?.name === user ? register.breakpoint : undefined;
  }

  wantsSingleStep(user: DebugUser): boolean {
    return this.#requests.get(user)?.singleStep === true;
  }
}

function controlOf(requests: readonly DebugRequest[], hasBreakpoints: boolean): number {
  const some = (predicate: (request: DebugRequest) => boolean | undefined): boolean =>
    requests.some((request) => predicate(request) === true);
  const control =
    (some((request) => request.singleStep) ? KVM_GUESTDBG_SINGLESTEP : 0) |
    (some((request) => request.blocksInterrupts) ? KVM_GUESTDBG_BLOCKIRQ : 0) |
    (some((request) => request.softwareBreakpoints) ? KVM_GUESTDBG_USE_SW_BP : 0) |
    (hasBreakpoints ? KVM_GUESTDBG_USE_HW_BP : 0);
  return control === 0 ? 0 : control | KVM_GUESTDBG_ENABLE;
}

/** DR0 … DR7 in the layout of `kvm_guest_debug`: addresses first, DR7 last. */
function debugRegisters(breakpoints: readonly HardwareBreakpoint[]): bigint[] {
  const registers = Array.from({ length: 8 }, () => 0n);
  let dr7 = breakpoints.length === 0 ? 0n : DR7_FIXED;
  for (const [index, { address, kind = 'execute', length = 1 }] of breakpoints.entries()) {
    registers[index] = address;
    const at = BigInt(index);
    dr7 |= 0b11n << (at * 2n);
    dr7 |= (KINDS[kind] | (LENGTHS[length] << 2n)) << (16n + at * 4n);
  }
  registers[7] = dr7;
  return registers;
}
