// The POST code port: firmware and kernels write progress codes to it, and Linux writes to it to pass a microsecond.
// IBM PC/AT Technical Reference, "Power On Self Test": manufacturing test port.
import type { RegisterFile } from '../register-file.js';
import { RegisterTable, type RegisterHandler } from '../register-table.js';

/** One port; keeps the last value. */
export function createPostCode(registers: RegisterFile, name = 'post-code'): RegisterHandler {
  const { CODE } = registers.allocate(name, { CODE: { doc: 'last code written' } });
  return new RegisterTable(name, [
    { offset: 0, name: 'CODE', size: 1, read: () => CODE.get(), write: (value) => CODE.set(value) },
  ]);
}
