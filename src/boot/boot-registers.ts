// The shape of the boot processor's registers at entry: plain data, for loaders to make and for a vCPU to take over.
// KVM API 4.12 (struct kvm_regs) and 4.13 (struct kvm_sregs) for the names.

/** The processor mode in which a guest is entered. */
export type FlatMode = 'real' | 'protected' | 'long';

export const REGISTERS = [
  'rax',
  'rbx',
  'rcx',
  'rdx',
  'rsi',
  'rdi',
  'rsp',
  'rbp',
  'r8',
  'r9',
  'r10',
  'r11',
  'r12',
  'r13',
  'r14',
  'r15',
  'rip',
  'rflags',
] as const;

/** A segment register with its hidden part, fields as in `struct kvm_segment`. */
export interface Segment {
  readonly base: bigint;
  readonly limit: number;
  readonly selector: number;
  readonly type: number;
  readonly present: number;
  readonly dpl: number;
  readonly db: number;
  readonly s: number;
  readonly l: number;
  readonly g: number;
  readonly avl: number;
  readonly unusable: number;
}

export interface DescriptorTable {
  readonly base: bigint;
  readonly limit: number;
}

/** General registers; those not named start as 0. */
export type BootRegs = { readonly [name in (typeof REGISTERS)[number]]: bigint };

/** Special registers; those not named keep their value after reset. */
export interface BootSregs {
  readonly cs: Segment;
  readonly ds: Segment;
  readonly es: Segment;
  readonly fs: Segment;
  readonly gs: Segment;
  readonly ss: Segment;
  readonly tr: Segment;
  readonly ldt: Segment;
  readonly gdt: DescriptorTable;
  readonly idt: DescriptorTable;
  readonly cr0: bigint;
  readonly cr3: bigint;
  readonly cr4: bigint;
  readonly efer: bigint;
}

export interface BootState {
  readonly mode: FlatMode;
  readonly regs: BootRegs;
  readonly sregs: BootSregs;
}
