// CPUID entries and MSR entries: the arrays behind a count that several ioctls share.
// KVM API 4.46 (struct kvm_cpuid2), 4.18 (struct kvm_msrs), 4.3 (struct kvm_msr_list).
import { kvmCpuid2, kvmCpuidEntry2, kvmMsrEntry, kvmMsrList, kvmMsrs } from './abi-struct.js';

/** All unsigned 32-bit. */
export type CpuidEntry = {
  function: number;
  index: number;
  flags: number;
  eax: number;
  ebx: number;
  ecx: number;
  edx: number;
};

export type MsrEntry = { index: number; data: bigint };

export function encodeCpuid(entries: readonly CpuidEntry[]): Uint8Array {
  const bytes = emptyCpuid(entries.length);
  for (const [i, entry] of entries.entries()) {
    const { function: leaf, index, flags, eax, ebx, ecx, edx } = entry;
    const fields = { function: leaf, index, flags, eax, ebx, ecx, edx };
    kvmCpuidEntry2.encode(fields, bytes.subarray(kvmCpuid2.size + i * kvmCpuidEntry2.size));
  }
  return bytes;
}

/** Room for `count` entries, which the kernel fills. */
export function emptyCpuid(count: number): Uint8Array {
  return kvmCpuid2.encode({ nent: count }, new Uint8Array(kvmCpuid2.size + count * kvmCpuidEntry2.size));
}

export function decodeCpuid(bytes: Uint8Array): CpuidEntry[] {
  return Array.from({ length: kvmCpuid2.decode(bytes).nent }, (_, i) =>
    kvmCpuidEntry2.decode(bytes.subarray(kvmCpuid2.size + i * kvmCpuidEntry2.size)),
  );
}

export function encodeMsrs(entries: readonly MsrEntry[]): Uint8Array {
  const bytes = new Uint8Array(kvmMsrs.size + entries.length * kvmMsrEntry.size);
  kvmMsrs.encode({ nmsrs: entries.length }, bytes);
  for (const [i, { index, data }] of entries.entries())
    kvmMsrEntry.encode({ index, data }, bytes.subarray(kvmMsrs.size + i * kvmMsrEntry.size));
  return bytes;
}

export function decodeMsrs(bytes: Uint8Array, count: number): MsrEntry[] {
  return Array.from({ length: count }, (_, i) =>
    kvmMsrEntry.decode(bytes.subarray(kvmMsrs.size + i * kvmMsrEntry.size)),
  );
}

/** Room for `count` MSR indices. */
export function emptyMsrList(count: number): Uint8Array {
  return kvmMsrList.encode({ nmsrs: count }, new Uint8Array(kvmMsrList.size + count * 4));
}

export function decodeMsrList(bytes: Uint8Array): number[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return Array.from({ length: kvmMsrList.decode(bytes).nmsrs }, (_, i) =>
    view.getUint32(kvmMsrList.size + i * 4, true),
  );
}
