// Exit statistics in shared memory: one cell per exit reason, per port and direction, and per MMIO address and direction.
// Written by one vCPU thread with plain stores, read by any thread at any time (8-byte stores are not torn on x86-64).

/** Reasons below this number have a cell of their own (KVM API 5, exit_reason; 41 are defined today). */
export const EXIT_REASONS = 64;
const PORTS = 65536;
const MMIO_CELLS = 1024;
const PORT_BASE = EXIT_REASONS;
const MMIO_BASE = PORT_BASE + PORTS * 2;
/** All MMIO addresses that found the table full share this cell. */
const MMIO_OVERFLOW = MMIO_BASE + MMIO_CELLS;
const CELLS = MMIO_OVERFLOW + 1;
/** Cells of two doubles each, then the table of MMIO keys, then the totals. */
const KEYS_AT = CELLS * 2;
const TOTALS_AT = KEYS_AT + MMIO_CELLS;
const LENGTH = TOTALS_AT + 4;
/** Totals: KVM_RUN calls, TSC cycles inside KVM_RUN, TSC stamp of the first entry, calls interrupted by a signal. */
const ENTRIES = 0;
const INSIDE = 1;
const FIRST_ENTRY = 2;
const INTERRUPTED = 3;

/** One row of a report. `cycles` is the TSC time from the exit to the next entry: what handling it cost here. */
export interface ExitCount {
  readonly count: number;
  readonly cycles: number;
}
export interface PortExits extends ExitCount {
  readonly port: number;
  readonly direction: 'in' | 'out';
}
export interface MmioExits extends ExitCount {
  /** GPA, or undefined for the addresses that came when the table was full. */
  readonly address: number | undefined;
  readonly direction: 'read' | 'write';
}
export interface ExitReport {
  /** KVM_RUN calls. */
  readonly entries: number;
  /** KVM_RUN calls that a signal (a kick) ended. */
  readonly interrupted: number;
  /** TSC cycles spent inside KVM_RUN, in the guest and in the kernel. */
  readonly cyclesInside: number;
  /** Exits by number of exit reason; PIO and MMIO are summed from their rows. */
  readonly reasons: readonly (ExitCount & { readonly reason: number })[];
  readonly ports: readonly PortExits[];
  readonly mmio: readonly MmioExits[];
}

const KVM_EXIT_IO = 2;
const KVM_EXIT_MMIO = 6;

/** One vCPU's statistics over a shared buffer. */
export class ExitStatistics {
  readonly #cells: Float64Array;
  #lastKey = -1;
  #lastCell = 0;
  /** The cell of the exit being handled, whose time is known at the next entry. */
  #open = -1;
  #exitedAt = 0;

  /** A zeroed buffer for one vCPU: about 2 MiB of address space, of which the host commits the pages in use. */
  static allocate(): SharedArrayBuffer {
    return new SharedArrayBuffer(LENGTH * 8);
  }

  constructor(readonly buffer: SharedArrayBuffer) {
    this.#cells = new Float64Array(buffer);
  }

  /** After KVM_RUN: closes the previous exit's time and counts the entry. Stamps are TSC cycles. */
  entered(entry: number, exit: number): void {
    const cells = this.#cells;
    const open = this.#open;
    if (open >= 0) cells[open * 2 + 1] = (cells[open * 2 + 1] as number) + (entry - this.#exitedAt);
    else if (cells[TOTALS_AT + FIRST_ENTRY] === 0) cells[TOTALS_AT + FIRST_ENTRY] = entry;
    this.#open = -1;
    this.#exitedAt = exit;
    cells[TOTALS_AT + ENTRIES] = (cells[TOTALS_AT + ENTRIES] as number) + 1;
    cells[TOTALS_AT + INSIDE] = (cells[TOTALS_AT + INSIDE] as number) + (exit - entry);
  }

  interrupted(): void {
    const cells = this.#cells;
    cells[TOTALS_AT + INTERRUPTED] = (cells[TOTALS_AT + INTERRUPTED] as number) + 1;
  }

  reason(reason: number): void {
    this.#count(reason < EXIT_REASONS ? reason : EXIT_REASONS - 1);
  }

  /** @param direction 1 for out, 0 for in, as KVM numbers it */
  port(port: number, direction: number): void {
    this.#count(PORT_BASE + port * 2 + direction);
  }

  /** @param direction 1 for write, 0 for read, as KVM numbers it */
  mmio(address: number, direction: number): void {
    // Doubled with the direction in the low bit; address < 2^52 holds on every x86.
    const key = address * 2 + direction;
    if (key !== this.#lastKey) {
      this.#lastCell = this.#mmioCell(key);
      this.#lastKey = key;
    }
    this.#count(this.#lastCell);
  }

  /** KVM_RUN calls so far. Cheap: for a watcher that asks whether the vCPU still exits. */
  get entries(): number {
    return this.#cells[TOTALS_AT + ENTRIES] as number;
  }

  report(): ExitReport {
    const cells = this.#cells;
    const cell = (index: number): ExitCount => ({
      count: cells[index * 2] as number,
      cycles: cells[index * 2 + 1] as number,
    });
    const ports: PortExits[] = [];
    for (let i = 0; i < PORTS * 2; i++) {
      const row = cell(PORT_BASE + i);
      if (row.count > 0) ports.push({ port: i >> 1, direction: (i & 1) === 1 ? 'out' : 'in', ...row });
    }
    const mmio: MmioExits[] = [];
    for (let i = 0; i <= MMIO_CELLS; i++) {
      const row = cell(MMIO_BASE + i);
      if (row.count === 0) continue;
      const key = i < MMIO_CELLS ? (cells[KEYS_AT + i] as number) - 1 : undefined;
      mmio.push({
        address: key === undefined ? undefined : Math.floor(key / 2),
        direction: key !== undefined && key % 2 === 1 ? 'write' : 'read',
        ...row,
      });
    }
    const reasons: (ExitCount & { reason: number })[] = [];
    const summed: Readonly<Record<number, readonly ExitCount[]>> = { [KVM_EXIT_IO]: ports, [KVM_EXIT_MMIO]: mmio };
    for (let reason = 0; reason < EXIT_REASONS; reason++) {
      const row = sum(summed[reason] ?? [cell(reason)]);
      if (row.count > 0) reasons.push({ reason, ...row });
    }
    return {
      entries: this.entries,
      interrupted: cells[TOTALS_AT + INTERRUPTED] as number,
      cyclesInside: cells[TOTALS_AT + INSIDE] as number,
      reasons,
      ports,
      mmio,
    };
  }

  #count(cell: number): void {
    const cells = this.#cells;
    cells[cell * 2] = (cells[cell * 2] as number) + 1;
    this.#open = cell;
  }

  // Open addressing; a key is stored plus one, so that zero means a free slot.
  #mmioCell(key: number): number {
    const cells = this.#cells;
    let slot = (Math.floor(key / 2) ^ (key * 31)) & (MMIO_CELLS - 1);
    for (let probe = 0; probe < MMIO_CELLS; probe++) {
      const stored = cells[KEYS_AT + slot];
      if (stored === key + 1) return MMIO_BASE + slot;
      if (stored === 0) {
        cells[KEYS_AT + slot] = key + 1;
        return MMIO_BASE + slot;
      }
      slot = (slot + 1) & (MMIO_CELLS - 1);
    }
    return MMIO_OVERFLOW;
  }
}

function sum(rows: readonly ExitCount[]): ExitCount {
  return rows.reduce((total, row) => ({ count: total.count + row.count, cycles: total.cycles + row.cycles }), {
    count: 0,
    cycles: 0,
  });
}
