// Exercise 12: a snapshot of your own. This form keeps the general registers only, so the guest's past is half forgotten.
// KVM API 4.8 (the dirty log), 4.11 to 4.14 (registers).

/**
 * @typedef {object} Machine
 * @property {{ read(gpa: number, length: number): Uint8Array, write(gpa: number, bytes: Uint8Array): void }} memory
 *   guest RAM; `read` gives a copy
 * @property {{ getRegs(): object, setRegs(regs: object): void, getSregs(): object, setSregs(sregs: object): void }} vcpu
 *   general registers; segment and control registers
 * @property {number} pages RAM in pages of 4096 bytes, the first at GPA 0
 * @property {() => number[]} dirtyPages the numbers of the pages that the guest has written since the last call
 */

/** @param {Machine} machine */
export function save(machine) {
  // Your turn: also the segment registers and the memory; and call dirtyPages() once, so that the log starts here.
  return { regs: machine.vcpu.getRegs() };
}

/** Takes the machine back. It may be called more than once. @param {Machine} machine */
export function restore(machine, snapshot) {
  // Your turn: also the segment registers, and those pages that the guest has written since: no others.
  machine.vcpu.setRegs(snapshot.regs);
}
