// The debugger's half on a vCPU's thread: which exits are its breakpoints, watchpoints and steps, and what they hit.
// KVM API 4.87 (KVM_SET_GUEST_DEBUG), 5 (KVM_EXIT_DEBUG); Intel SDM vol. 3B §17.2.3 (DR6).
import { KVM_INTERNAL_ERROR_EMULATION } from '../kvm/abi.js';
import type { Sregs } from '../kvm/registers.js';
import type { VcpuFd } from '../kvm/vcpu-fd.js';
import type { GuestMemory } from '../memory/guest-memory.js';
import type { GuestDebug, HardwareBreakpoint } from './guest-debug.js';
import { readLinear, walk } from './paging.js';
import type { VcpuStop } from './stop.js';

/** All that the debugger wants of this vCPU from now on. Plain data. */
export interface DebuggerRequest {
  /** Whether a failure of the guest waits for the debugger instead of ending the machine at once. */
  readonly isAttached: boolean;
  /** The vCPU is to stop after one instruction. */
  readonly step: boolean;
  /** GPAs of the `int3` bytes in guest memory that are the debugger's. */
  readonly planted: readonly number[];
  /** What the debug registers watch. */
  readonly registers: readonly HardwareBreakpoint[];
  /** For hosts that hand none of these over: looked for after each instruction, which is very slow. */
  readonly stepped: readonly SteppedPoint[];
}

export interface SteppedPoint {
  readonly kind: 'execute' | 'write';
  /** Linear address. */
  readonly address: bigint;
  /** Bytes that are compared for a write. */
  readonly length: number;
}

export const NO_DEBUGGER: DebuggerRequest = {
  isAttached: false,
  step: false,
  planted: [],
  registers: [],
  stepped: [],
};

/** Why the vCPU waits for the debugger. Plain data. */
export type DebugEvent =
  | { readonly kind: 'stepped' | 'software-breakpoint' | 'hardware-breakpoint' }
  | { readonly kind: 'watchpoint'; readonly address: bigint; readonly access: 'write' | 'access' }
  | { readonly kind: 'failed'; readonly stop: VcpuStop };

const DEBUG_EXCEPTION = 1;
const BREAKPOINT_EXCEPTION = 3;
const DR6_HITS = 0b1111n;
const DR6_SINGLE_STEP = 1n << 14n;

export class Debugger {
  #request = NO_DEBUGGER;
  #planted: ReadonlySet<number> = new Set();
  /** The bytes under the stepped watchpoints when they were last looked at, in their order. */
  #seen: readonly Uint8Array[] = [];

  constructor(
    private readonly fd: VcpuFd,
    private readonly memory: GuestMemory,
    private readonly guestDebug: GuestDebug,
  ) {}

  /** Replaces what was wanted before. @throws RangeError when the debug registers do not suffice */
  set(request: DebuggerRequest): void {
    this.#arm(request);
    this.#request = request;
    this.#planted = new Set(request.planted);
    this.#seen = this.#look();
  }

  /** Whether the debugger planted the `int3` at this linear address. */
  ownsInt3(linear: bigint): boolean {
    if (this.#planted.size === 0) return false;
    const { gpa } = walk(this.memory, this.fd.getSregs(), linear);
    return gpa !== undefined && this.#planted.has(gpa);
  }

  /**
   * Says what the end of a run means to the debugger.
   * @returns the event for which the vCPU waits; `go-on` when the guest is to run again; undefined: not its affair
   */
  claim(stop: VcpuStop): DebugEvent | 'go-on' | undefined {
    if (stop.kind === 'kicked' || stop.kind === 'pending') return undefined;
    // Where KVM emulates kernel code, `int3` comes as an instruction that it cannot do; the assist left it to us.
    if (stop.kind === 'internal-error' && stop.suberror === KVM_INTERNAL_ERROR_EMULATION && this.#isAtInt3())
      return { kind: 'software-breakpoint' };
    if (!this.#request.isAttached) return undefined;
    if (stop.kind !== 'debug') return { kind: 'failed', stop };
    return stop.exception === BREAKPOINT_EXCEPTION ? this.#breakpoint(stop.pc) : this.#debugException(stop);
  }

  // With KVM_GUESTDBG_USE_SW_BP every int3 exits, so the guest's own must be given back to it. RIP stays at the int3:
  // KVM knows for each kind of host how RIP gets behind it.
  #breakpoint(pc: bigint): DebugEvent | 'go-on' {
    if (this.ownsInt3(pc)) return { kind: 'software-breakpoint' };
    this.#inject(BREAKPOINT_EXCEPTION);
    return 'go-on';
  }

  #debugException({ pc, dr6 }: { readonly pc: bigint; readonly dr6: bigint }): DebugEvent | 'go-on' {
    const hit = this.#registerHit(dr6);
    if (hit !== undefined) return hit;
    if ((dr6 & DR6_SINGLE_STEP) !== 0n && this.guestDebug.wantsSingleStep('debugger'))
      return this.#steppedHit(pc) ?? (this.#request.step ? { kind: 'stepped' } : this.#stepOn());
    // The guest's own: it steps one of its programs.
    this.fd.setDebugRegs({ dr6 });
    this.#inject(DEBUG_EXCEPTION);
    return 'go-on';
  }

  #inject(vector: number): void {
    this.fd.setVcpuEvents({
      exception: { injected: 1, nr: vector, hasErrorCode: 0, pending: 0, errorCode: 0 },
      flags: 0,
    });
  }

  #isAtInt3(): boolean {
    return this.#planted.size > 0 && this.ownsInt3(linearOf(this.fd.getRegs().rip, this.fd.getSregs()));
  }

  #arm({ registers, step, stepped, planted }: DebuggerRequest): void {
    this.guestDebug.request('debugger', {
      breakpoints: registers,
      singleStep: step || stepped.length > 0,
      // One instruction without an interrupt's handler before it; a guest that is stepped for long needs its interrupts.
      blocksInterrupts: step,
      softwareBreakpoints: planted.length > 0,
    });
  }

  // KVM sets TF for the instruction at which it was asked to step; where it emulates that one, TF is lost with it.
  #stepOn(): 'go-on' {
    this.#arm(this.#request);
    return 'go-on';
  }

  #registerHit(dr6: bigint): DebugEvent | undefined {
    let index = 0;
    for (let hits = dr6 & DR6_HITS; hits !== 0n; hits >>= 1n, index++) {
      if ((hits & 1n) === 0n) continue;
      const breakpoint = this.guestDebug.breakpointOf('debugger', index);
      if (breakpoint === undefined) continue;
      const { kind = 'execute', address } = breakpoint;
      return kind === 'execute' ? { kind: 'hardware-breakpoint' } : { kind: 'watchpoint', address, access: kind };
    }
    return undefined;
  }

  #steppedHit(pc: bigint): DebugEvent | undefined {
    const { stepped } = this.#request;
    if (stepped.length === 0) return undefined;
    const before = this.#seen;
    this.#seen = this.#look();
    const written = stepped.find(
      ({ kind }, index) => kind === 'write' && !isEqual(before[index] as Uint8Array, this.#seen[index] as Uint8Array),
    );
    if (written !== undefined) return { kind: 'watchpoint', address: written.address, access: 'write' };
    return stepped.some(({ kind, address }) => kind === 'execute' && address === pc)
      ? { kind: 'hardware-breakpoint' }
      : undefined;
  }

  #look(): readonly Uint8Array[] {
    const { stepped } = this.#request;
    if (!stepped.some(({ kind }) => kind === 'write')) return [];
    const sregs = this.fd.getSregs();
    return stepped.map(({ kind, address, length }) =>
      kind === 'write' ? readLinear(this.memory, sregs, address, length) : new Uint8Array(),
    );
  }
}

const CR0_PE = 1n;
const EFER_LMA = 1n << 10n;

/** The linear address of an instruction: in 64-bit code the base of CS does not count. */
export function linearOf(rip: bigint, { cr0, efer, cs }: Pick<Sregs, 'cr0' | 'efer' | 'cs'>): bigint {
  const isLong = (cr0 & CR0_PE) !== 0n && (efer & EFER_LMA) !== 0n && cs.l !== 0;
  return isLong ? rip : BigInt.asUintN(32, cs.base + rip);
}

function isEqual(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && a.every((byte, index) => byte === b[index]);
}
