// The mailbox of a vCPU: the one access of its guest that waits for a closure on the owner thread.
// Fields of the register file, so that a person sees what a vCPU waits for.
import type { FieldRows, FieldsOf, RegisterFile } from './register-file.js';

const MAILBOX_ROWS = {
  REQUESTS: {
    doc: 'accesses that this vCPU asked the owner for, modulo 2^32; stored after all that describes the last',
  },
  ANSWERS: { doc: 'the last of these that the owner has answered' },
  DEVICE: { doc: 'number of the device, in the order of the configuration' },
  OFFSET: { doc: 'from the start of the device, in bytes' },
  SIZE: { doc: '1, 2 or 4 bytes' },
  IS_WRITE: { doc: '1 for a write' },
  VALUE: { doc: 'what is written, or what was read' },
} as const satisfies FieldRows;

export type ClosureMailbox = FieldsOf<typeof MAILBOX_ROWS>;

/** One per vCPU, in their order. */
export function allocateMailboxes(registers: RegisterFile, cpus: number): readonly ClosureMailbox[] {
  return Array.from({ length: cpus }, (_, cpu) => registers.allocate(`closures.vcpu${cpu}`, MAILBOX_ROWS));
}
