// A vCPU's registers as values: general, special, events and debug registers, to and from the kernel's bytes.
// KVM API 4.11 to 4.14, 4.31, 4.33; the same bytes lie in kvm_run's sync area.
import {
  kvmDebugregs,
  kvmDtable,
  type kvmFpu,
  type kvmRegs,
  kvmSegment,
  kvmSregs,
  kvmVcpuEvents,
  kvmXcr,
  kvmXcrs,
} from './abi-struct.js';
import { KVM_MAX_XCRS } from './abi-flag.js';
import type { Fields } from '../memory/struct.js';

/** rax … r15, rip, rflags, each an unsigned 64-bit bigint. */
export type Regs = Fields<typeof kvmRegs.rows>;
export type Segment = Fields<typeof kvmSegment.rows>;
export type DescriptorTable = Fields<typeof kvmDtable.rows>;
export type Fpu = Fields<typeof kvmFpu.rows>;

type SegmentName = 'cs' | 'ds' | 'es' | 'fs' | 'gs' | 'ss' | 'tr' | 'ldt';
type TableName = 'gdt' | 'idt';
type ControlName = 'cr0' | 'cr2' | 'cr3' | 'cr4' | 'cr8' | 'efer';

export type Sregs = Record<SegmentName, Segment> &
  Record<TableName, DescriptorTable> &
  Record<ControlName, bigint> & {
    apicBase: bigint;
    /** 32 bytes: one bit per vector that was injected but not delivered; at most one is set. */
    interruptBitmap: Uint8Array;
  };

/** struct kvm_vcpu_events. */
export type VcpuEvents = {
  exception: { injected: number; nr: number; hasErrorCode: number; pending: number; errorCode: number };
  interrupt: { injected: number; nr: number; soft: number; shadow: number };
  nmi: { injected: number; pending: number; masked: number };
  smi: { smm: number; pending: number; smmInsideNmi: number; latchedInit: number };
  sipiVector: number;
  /** KVM_VCPUEVENT_VALID_*: which of the optional fields a set takes over. */
  flags: number;
  tripleFaultPending: number;
  exceptionHasPayload: number;
  exceptionPayload: bigint;
};

export type DebugRegs = { db: [bigint, bigint, bigint, bigint]; dr6: bigint; dr7: bigint; flags: bigint };

export type Xcr = Fields<typeof kvmXcr.rows>;

const SEGMENTS: readonly SegmentName[] = ['cs', 'ds', 'es', 'fs', 'gs', 'ss', 'tr', 'ldt'];
const TABLES: readonly TableName[] = ['gdt', 'idt'];
const CONTROLS: readonly ControlName[] = ['cr0', 'cr2', 'cr3', 'cr4', 'cr8', 'efer'];

/** Reads struct kvm_sregs. @throws RangeError when the bytes are too few */
export function decodeSregs(bytes: Uint8Array): Sregs {
  const raw = kvmSregs.decode(bytes);
  const segment = (name: SegmentName): Segment => kvmSegment.decode(raw[name]);
  return {
    cs: segment('cs'),
    ds: segment('ds'),
    es: segment('es'),
    fs: segment('fs'),
    gs: segment('gs'),
    ss: segment('ss'),
    tr: segment('tr'),
    ldt: segment('ldt'),
    gdt: kvmDtable.decode(raw.gdt),
    idt: kvmDtable.decode(raw.idt),
    cr0: raw.cr0,
    cr2: raw.cr2,
    cr3: raw.cr3,
    cr4: raw.cr4,
    cr8: raw.cr8,
    efer: raw.efer,
    apicBase: raw.apic_base,
    interruptBitmap: raw.interrupt_bitmap,
  };
}

/** Writes the given ones into struct kvm_sregs; the others keep what is there. A segment is given whole or in part. */
export function encodeSregs(values: PartialSregs, into: Uint8Array = new Uint8Array(kvmSregs.size)): Uint8Array {
  for (const name of SEGMENTS) {
    const value = values[name];
    if (value !== undefined) kvmSegment.encode(value, into.subarray(kvmSregs.rows[name][0]));
  }
  for (const name of TABLES) {
    const value = values[name];
    if (value !== undefined) kvmDtable.encode(value, into.subarray(kvmSregs.rows[name][0]));
  }
  for (const name of CONTROLS) {
    const value = values[name];
    if (value !== undefined) kvmSregs.encode({ [name]: value }, into);
  }
  if (values.apicBase !== undefined) kvmSregs.encode({ apic_base: values.apicBase }, into);
  if (values.interruptBitmap !== undefined) kvmSregs.encode({ interrupt_bitmap: values.interruptBitmap }, into);
  return into;
}

export type PartialSregs = Partial<Record<SegmentName, Partial<Segment>>> &
  Partial<Record<TableName, Partial<DescriptorTable>>> &
  Partial<Omit<Sregs, SegmentName | TableName>>;

export function decodeVcpuEvents(bytes: Uint8Array): VcpuEvents {
  const raw = kvmVcpuEvents.decode(bytes);
  return {
    exception: {
      injected: raw['exception.injected'],
      nr: raw['exception.nr'],
      hasErrorCode: raw['exception.has_error_code'],
      pending: raw['exception.pending'],
      errorCode: raw['exception.error_code'],
    },
    interrupt: {
      injected: raw['interrupt.injected'],
      nr: raw['interrupt.nr'],
      soft: raw['interrupt.soft'],
      shadow: raw['interrupt.shadow'],
    },
    nmi: { injected: raw['nmi.injected'], pending: raw['nmi.pending'], masked: raw['nmi.masked'] },
    smi: {
      smm: raw['smi.smm'],
      pending: raw['smi.pending'],
      smmInsideNmi: raw['smi.smm_inside_nmi'],
      latchedInit: raw['smi.latched_init'],
    },
    sipiVector: raw.sipi_vector,
    flags: raw.flags,
    tripleFaultPending: raw['triple_fault.pending'],
    exceptionHasPayload: raw.exception_has_payload,
    exceptionPayload: raw.exception_payload,
  };
}

/** Writes struct kvm_vcpu_events, all of it. */
export function encodeVcpuEvents(
  events: VcpuEvents,
  into: Uint8Array = new Uint8Array(kvmVcpuEvents.size),
): Uint8Array {
  return kvmVcpuEvents.encode(
    {
      'exception.injected': events.exception.injected,
      'exception.nr': events.exception.nr,
      'exception.has_error_code': events.exception.hasErrorCode,
      'exception.pending': events.exception.pending,
      'exception.error_code': events.exception.errorCode,
      'interrupt.injected': events.interrupt.injected,
      'interrupt.nr': events.interrupt.nr,
      'interrupt.soft': events.interrupt.soft,
      'interrupt.shadow': events.interrupt.shadow,
      'nmi.injected': events.nmi.injected,
      'nmi.pending': events.nmi.pending,
      'nmi.masked': events.nmi.masked,
      'smi.smm': events.smi.smm,
      'smi.pending': events.smi.pending,
      'smi.smm_inside_nmi': events.smi.smmInsideNmi,
      'smi.latched_init': events.smi.latchedInit,
      sipi_vector: events.sipiVector,
      flags: events.flags,
      'triple_fault.pending': events.tripleFaultPending,
      exception_has_payload: events.exceptionHasPayload,
      exception_payload: events.exceptionPayload,
    },
    into,
  );
}

export function decodeDebugRegs(bytes: Uint8Array): DebugRegs {
  const raw = kvmDebugregs.decode(bytes);
  return { db: [raw['db[0]'], raw['db[1]'], raw['db[2]'], raw['db[3]']], dr6: raw.dr6, dr7: raw.dr7, flags: raw.flags };
}

export function encodeDebugRegs({ db, dr6, dr7, flags }: DebugRegs): Uint8Array {
  return kvmDebugregs.encode({ 'db[0]': db[0], 'db[1]': db[1], 'db[2]': db[2], 'db[3]': db[3], dr6, dr7, flags });
}

export function decodeXcrs(bytes: Uint8Array): Xcr[] {
  const { nr_xcrs, xcrs } = kvmXcrs.decode(bytes);
  return Array.from({ length: Math.min(nr_xcrs, KVM_MAX_XCRS) }, (_, i) =>
    kvmXcr.decode(xcrs.subarray(i * kvmXcr.size)),
  );
}

/** @throws RangeError for more than KVM_MAX_XCRS */
export function encodeXcrs(registers: readonly Xcr[]): Uint8Array {
  if (registers.length > KVM_MAX_XCRS)
    throw new RangeError(`KVM_SET_XCRS takes ${KVM_MAX_XCRS} registers at most, not ${registers.length}`);
  const xcrs = new Uint8Array(KVM_MAX_XCRS * kvmXcr.size);
  for (const [i, register] of registers.entries()) kvmXcr.encode(register, xcrs.subarray(i * kvmXcr.size));
  return kvmXcrs.encode({ nr_xcrs: registers.length, xcrs });
}
