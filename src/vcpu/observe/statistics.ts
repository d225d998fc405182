// Exit statistics in shared memory: one cell per exit reason, per port and direction, and per MMIO address and direction.
// Written by one vCPU thread with plain stores (exit-counter.ts), read by any thread at any time.
import { KVM_EXIT_IO, KVM_EXIT_MMIO } from '../../kvm/abi-exit.js';
import { createExitCounter, type ExitCounter } from './exit-counter.js';
import { STATISTICS_LAYOUT as AT } from './statistics-layout.js';

/**
 * One row of a report. `cycles` is the TSC time from the exit to the next entry: what handling it cost here, all times
 * together. Where not all were `timed`, it is an estimate: what the timed ones took, times `count` over `timed`.
 */
export interface ExitCount {
  readonly count: number;
  readonly timed: number;
  readonly cycles: number;
}
export interface PortExits extends ExitCount {
  readonly port: number;
  readonly direction: 'in' | 'out';
}
export interface MmioExits extends ExitCount {
  readonly address: number;
  readonly direction: 'read' | 'write';
}
export interface ExitReport {
  /** KVM_RUN calls. */
  readonly entries: number;
  /** KVM_RUN calls that a signal (a kick) ended. */
  readonly interrupted: number;
  /**
   * TSC cycles spent inside KVM_RUN, in the guest and in the kernel, as of the last timed exit: all of the run loop's time
   * but the `cycles` of the reasons.
   */
  readonly cyclesInside: number;
  /** Exits by number of exit reason; KVM_EXIT_IO and KVM_EXIT_MMIO are the sums of their rows. */
  readonly reasons: readonly (ExitCount & { readonly reason: number })[];
  /** In ascending order, reads before writes. */
  readonly ports: readonly PortExits[];
  readonly mmio: readonly MmioExits[];
  /** Port and MMIO exits that found the table of ports and addresses full. */
  readonly others: ExitCount;
}

/** One vCPU's statistics over a shared buffer. */
export class ExitStatistics {
  readonly #cells: Float64Array;

  /** A zeroed buffer for one vCPU, about 70 KiB. */
  static allocate(): SharedArrayBuffer {
    return new SharedArrayBuffer(AT.doubles * 8);
  }

  constructor(readonly buffer: SharedArrayBuffer) {
    this.#cells = new Float64Array(buffer);
  }

  /** For the thread that runs the vCPU: what writes the cells. @param stamps VcpuFd.stamps */
  counter(stamps: Float64Array): ExitCounter {
    return createExitCounter(this.buffer, stamps);
  }

  /** KVM_RUN calls so far: each ended with an exit or with an interruption. */
  get entries(): number {
    const cells = this.#cells;
    let entries = cells[AT.interrupted] as number;
    for (let cell = 0; cell <= AT.overflow; cell++) entries += cells[cell * AT.cell] as number;
    return entries;
  }

  /** How many different reasons, ports and addresses there were. Cheap: some thousand loads. */
  get kinds(): number {
    const cells = this.#cells;
    let kinds = 0;
    for (let cell = 0; cell <= AT.overflow; cell++) if ((cells[cell * AT.cell] as number) > 0) kinds++;
    return kinds;
  }

  report(): ExitReport {
    const cells = this.#cells;
    const cell = (index: number): ExitCount => {
      const [count = 0, timed = 0, cycles = 0] = cells.subarray(index * AT.cell, (index + 1) * AT.cell);
      return { count, timed, cycles: timed === 0 ? 0 : (cycles * count) / timed };
    };
    const ports: PortExits[] = [];
    const mmio: MmioExits[] = [];
    for (let slot = 0; slot < AT.hashedCells; slot++) {
      const key = cells[AT.keysAt + slot] as number;
      if (key === 0) continue;
      const row = cell(AT.reasons + slot);
      const place = Math.abs(key) - 1;
      const isWrite = place % 2 === 1;
      if (key < 0) ports.push({ port: place >> 1, direction: isWrite ? 'out' : 'in', ...row });
      else mmio.push({ address: Math.floor(place / 2), direction: isWrite ? 'write' : 'read', ...row });
    }
    ports.sort((a, b) => a.port - b.port || a.direction.localeCompare(b.direction));
    mmio.sort((a, b) => a.address - b.address || a.direction.localeCompare(b.direction));
    const reasons: (ExitCount & { reason: number })[] = [];
    const summed: Readonly<Record<number, readonly ExitCount[]>> = { [KVM_EXIT_IO]: ports, [KVM_EXIT_MMIO]: mmio };
    for (let reason = 0; reason < AT.reasons; reason++) {
      const row = sum(summed[reason] ?? [cell(reason)]);
      if (row.count > 0) reasons.push({ reason, ...row });
    }
    const others = cell(AT.overflow);
    const handled = sum([...reasons, others]).cycles;
    return {
      entries: this.entries,
      interrupted: cells[AT.interrupted] as number,
      cyclesInside: Math.max(0, (cells[AT.running] as number) - handled),
      reasons,
      ports,
      mmio,
      others,
    };
  }
}

function sum(rows: readonly ExitCount[]): ExitCount {
  return rows.reduce(
    (total, row) => ({
      count: total.count + row.count,
      timed: total.timed + row.timed,
      cycles: total.cycles + row.cycles,
    }),
    { count: 0, timed: 0, cycles: 0 },
  );
}
