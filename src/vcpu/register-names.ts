// The registers that a person is shown, in the order of the manual, and the bits of RFLAGS. Names only, without imports:
// the explorer's page, the dump and gdb share them.
// Intel SDM vol. 1 §3.4.1 (general registers), §3.4.3 (RFLAGS); vol. 3A §2.5 (control registers), §2.2.1 (EFER).

/** In rows of four, as they are printed. */
export const GENERAL_REGISTER_ROWS = [
  ['rax', 'rbx', 'rcx', 'rdx'],
  ['rsi', 'rdi', 'rbp', 'rsp'],
  ['r8', 'r9', 'r10', 'r11'],
  ['r12', 'r13', 'r14', 'r15'],
] as const;

/** Those that decide how the processor works and what an address means. */
export const CONTROL_REGISTERS = ['cr0', 'cr2', 'cr3', 'cr4', 'cr8', 'efer'] as const;

/** Name and bit. */
export const RFLAGS_BITS = [
  ['CF', 0],
  ['PF', 2],
  ['AF', 4],
  ['ZF', 6],
  ['SF', 7],
  ['TF', 8],
  ['IF', 9],
  ['DF', 10],
  ['OF', 11],
  ['NT', 14],
  ['RF', 16],
  ['VM', 17],
  ['AC', 18],
  ['VIF', 19],
  ['VIP', 20],
  ['ID', 21],
] as const;
