// The breakpoints and watchpoints that gdb has set, and what makes each of them work: a planted int3, a debug register,
// or stepping where the host hands over neither. Intel SDM vol. 3B §17.2.5 (lengths and alignment), vol. 2A (INT3).
import type { GuestMemory } from '../../memory/guest-memory.js';
import type { DebuggerRequest, SteppedPoint } from '../debugger.js';
import type { HardwareBreakpoint } from '../guest-debug.js';
import { walk, type PagingRegisters } from '../paging.js';
import type { Point, PointResult } from './target.js';

/** What this host hands over to a debugger. */
export interface DebugFacilities {
  /** An `int3` exits. */
  readonly int3: boolean;
  /** It does so in real mode as well, and is not delivered there by KVM's emulator. */
  readonly realModeInt3: boolean;
  /** Debug registers that stop at an instruction; 0 where they are passed over. */
  readonly registers: number;
  /** Whether they stop at an access, too. */
  readonly watchpoints: boolean;
  /** Every instruction can be stepped, so that the guest can be looked at after each. */
  readonly steps: boolean;
}

interface Int3 {
  readonly by: 'int3';
  readonly gpa: number;
  /** The guest's own byte. */
  readonly original: number;
}

type Form =
  | Int3
  | { readonly by: 'registers'; readonly registers: readonly HardwareBreakpoint[] }
  | { readonly by: 'steps'; readonly stepped: SteppedPoint };

/** More than a person sets; each costs a comparison per step on a host that must step. */
const POINTS_MAX = 256;
/** Longest stretch that is compared after each step. */
const STEPPED_BYTES_MAX = 4096;
const INT3 = 0xcc;
const CR0_PE = 1n;
const WIDTHS = [8, 4, 2, 1] as const;

export class Points {
  readonly #points = new Map<string, Form>();

  constructor(
    private readonly memory: GuestMemory,
    private readonly facilities: DebugFacilities,
  ) {}

  /** @param paging the registers that decide where a linear address lies now */
  insert(point: Point, paging: PagingRegisters): PointResult {
    if (this.#points.has(keyOf(point))) return 'ok';
    if (this.#points.size >= POINTS_MAX) return 'full';
    const form = this.#formOf(point, paging);
    if (typeof form === 'string') return form;
    this.#points.set(keyOf(point), form);
    if (form.by === 'int3') this.memory.writeU8(form.gpa, INT3);
    return 'ok';
  }

  remove(point: Point): void {
    const form = this.#points.get(keyOf(point));
    this.#points.delete(keyOf(point));
    if (form?.by === 'int3') this.#restore(form);
  }

  removeAll(): void {
    const forms = [...this.#points.values()];
    this.#points.clear();
    for (const form of forms) if (form.by === 'int3') this.#restore(form);
  }

  /** What each vCPU is to be asked for. */
  request(): Pick<DebuggerRequest, 'planted' | 'registers' | 'stepped'> {
    const forms = [...this.#points.values()];
    return {
      planted: forms.flatMap((form) => (form.by === 'int3' ? [form.gpa] : [])),
      registers: forms.flatMap((form) => (form.by === 'registers' ? form.registers : [])),
      stepped: forms.flatMap((form) => (form.by === 'steps' ? [form.stepped] : [])),
    };
  }

  /** Runs `act` with the guest's own bytes in memory, and puts back the `int3`s where the guest's memory is then. */
  withoutInt3<T>(act: () => T): T {
    const planted = [...this.#points].flatMap(([key, form]) => (form.by === 'int3' ? [{ key, form }] : []));
    for (const { form } of planted) this.memory.writeU8(form.gpa, form.original);
    try {
      return act();
    } finally {
      // All are read before one is written: two of them may lie on the same byte.
      const originals = planted.map(({ form }) => this.memory.readU8(form.gpa));
      for (const [index, { key, form }] of planted.entries()) {
        this.#points.set(key, { ...form, original: originals[index] as number });
        this.memory.writeU8(form.gpa, INT3);
      }
    }
  }

  #formOf(point: Point, paging: PagingRegisters): Form | PointResult {
    switch (point.kind) {
      case 'software':
        return this.#software(point, paging);
      case 'hardware':
        return this.#register(point);
      case 'write':
        return this.#watch(point, 'write');
      case 'access':
        return this.#watch(point, 'access');
      case 'read':
        // A debug register that watches reads stops at writes as well.
        return 'unsupported';
    }
  }

  // An address that is not mapped yet, as a kernel's before it has switched paging on, gets a debug register.
  #software(point: Point, paging: PagingRegisters): Form | PointResult {
    const { int3, realModeInt3 } = this.facilities;
    if (!int3 || (!realModeInt3 && (paging.cr0 & CR0_PE) === 0n)) return this.#register(point);
    const { gpa } = walk(this.memory, paging, point.address);
    if (gpa === undefined || !this.memory.contains(gpa, 1)) {
      const form = this.#register(point);
      return form === 'unsupported' || form === 'full' ? 'no-memory' : form;
    }
    const other = [...this.#points.values()].find((form) => form.by === 'int3' && form.gpa === gpa);
    const original = other?.by === 'int3' ? other.original : this.memory.readU8(gpa);
    return { by: 'int3', gpa, original };
  }

  #register({ address }: Point): Form | PointResult {
    if (this.facilities.registers > 0) return this.#registers([{ address }]);
    return this.facilities.steps ? { by: 'steps', stepped: { kind: 'execute', address, length: 1 } } : 'unsupported';
  }

  #watch({ address, length }: Point, kind: 'write' | 'access'): Form | PointResult {
    if (this.facilities.watchpoints && this.facilities.registers > 0)
      return this.#registers(pieces(address, length, kind));
    // Whether a value was read shows nowhere after a step.
    if (!this.facilities.steps || kind === 'access') return 'unsupported';
    return length > STEPPED_BYTES_MAX ? 'full' : { by: 'steps', stepped: { kind: 'write', address, length } };
  }

  #registers(registers: readonly HardwareBreakpoint[]): Form | PointResult {
    const used = this.request().registers.length;
    return used + registers.length > this.facilities.registers ? 'full' : { by: 'registers', registers };
  }

  // A guest that has written there meanwhile has made the byte its own.
  #restore({ gpa, original }: Int3): void {
    const isShared = [...this.#points.values()].some((form) => form.by === 'int3' && form.gpa === gpa);
    if (!isShared && this.memory.readU8(gpa) === INT3) this.memory.writeU8(gpa, original);
  }
}

/** A stretch in the lengths and alignments that debug registers have; five pieces are enough to be too many. */
function pieces(address: bigint, length: number, kind: 'write' | 'access'): HardwareBreakpoint[] {
  const found: HardwareBreakpoint[] = [];
  for (let at = 0; at < length && found.length < 5;) {
    const start = address + BigInt(at);
    const width = WIDTHS.find((each) => start % BigInt(each) === 0n && each <= length - at) ?? 1;
    found.push({ address: start, kind, length: width });
    at += width;
  }
  return found;
}

function keyOf({ kind, address, length }: Point): string {
  return kind === 'software' || kind === 'hardware' ? `${kind} ${address}` : `${kind} ${address} ${length}`;
}
