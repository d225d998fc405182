// The entry of a vCPU thread whose port handler breaks its word not to throw, for the tests of what becomes of it.
import { runVcpuThread } from '../../src/vcpu/worker.js';
import type { VcpuBuses } from '../../src/vcpu/worker-protocol.js';

/** BuildVcpuBuses; `board` says what a port write does. */
function buildVcpuBuses(board: unknown): VcpuBuses {
  const hoard: unknown[] = [];
  const misdeeds: Readonly<Record<string, () => void>> = {
    throws: () => {
      throw new Error('the handler of port 0x10 is broken');
    },
    hoards: () => {
      for (;;) hoard.push(Array.from({ length: 1000 }, (_, i) => ({ i })));
    },
  };
  const misdeed = misdeeds[String(board)];
  const quiet = { read: () => 0, write: () => undefined, readLow: () => 0, writeLow: () => undefined };
  const misbehaving = { ...quiet, write: () => misdeed?.(), writeLow: () => misdeed?.() };
  return { pio: misbehaving, mmio: quiet, pending: new Int32Array(1) };
}

void runVcpuThread(buildVcpuBuses);
