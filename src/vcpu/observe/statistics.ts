// Exit statistics in shared memory: one cell per exit reason, per port and direction, and per MMIO address and direction.
// Written by one vCPU thread with plain stores, read by any thread at any time (8-byte stores are not torn on x86-64).
import { KVM_EXIT_IO, KVM_EXIT_MMIO } from '../../kvm/abi-exit.js';

/** Reasons below this number have a cell of their own (KVM API 5, exit_reason; 41 are defined today). */
export const EXIT_REASONS = 64;
/** Cells for ports and addresses, by direction; found by hashing. A power of two. */
const HASHED_CELLS = 2048;
/** All ports and addresses that found the table full share this cell. */
const OVERFLOW = EXIT_REASONS + HASHED_CELLS;
/** Each cell is two doubles: count, cycles. Then the keys of the hashed cells, then the totals. */
const KEYS_AT = (OVERFLOW + 1) * 2;
const TOTALS_AT = KEYS_AT + HASHED_CELLS;
const LENGTH = TOTALS_AT + 5;
/** Totals: KVM_RUN calls, TSC cycles inside KVM_RUN, TSC stamps of the first entry and of the last exit, interruptions. */
const ENTRIES = 0;
const INSIDE = 1;
const FIRST_ENTRY = 2;
const INTERRUPTED = 3;
const LAST_EXIT = 4;
/** Most probes of a look-up: a guest that touches thousands of addresses costs no more than this. */
const MOST_PROBES = 16;

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
  readonly address: number;
  readonly direction: 'read' | 'write';
}
export interface ExitReport {
  /** KVM_RUN calls. */
  readonly entries: number;
  /** KVM_RUN calls that a signal (a kick) ended. */
  readonly interrupted: number;
  /** TSC cycles spent inside KVM_RUN, in the guest and in the kernel. */
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
  // The cells of the last port and of the last address, for the same ones are usually asked again. Small integers, all of
  // them: any other number is a box of its own to the compiler.
  #lastPort = -1;
  #lastPortCell = OVERFLOW;
  #lastAddress = -1;
  #lastDirection = -1;
  #lastAddressCell = OVERFLOW;
  /** The cell of the exit being handled, whose time is known at the next entry. */
  #open = -1;

  /** A zeroed buffer for one vCPU, about 50 KiB. */
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
    if (open >= 0)
      cells[open * 2 + 1] = (cells[open * 2 + 1] as number) + (entry - (cells[TOTALS_AT + LAST_EXIT] as number));
    else if (cells[TOTALS_AT + FIRST_ENTRY] === 0) cells[TOTALS_AT + FIRST_ENTRY] = entry;
    this.#open = -1;
    cells[TOTALS_AT + LAST_EXIT] = exit;
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
    const place = port * 2 + direction;
    if (place !== this.#lastPort) {
      this.#lastPortCell = this.#find(-1 - place);
      this.#lastPort = place;
    }
    this.#count(this.#lastPortCell);
  }

  /** @param direction 1 for write, 0 for read, as KVM numbers it */
  mmio(address: number, direction: number): void {
    // No x86 has more than 52 bits of physical address, so a double holds the key exactly.
    this.#count(this.#find(1 + (address * 2 + direction)));
  }

  /** As `mmio`, for an address below 4 GiB. @param address as a signed 32-bit integer */
  lowMmio(address: number, direction: number): void {
    if (address !== this.#lastAddress || direction !== this.#lastDirection) {
      this.#lastAddressCell = this.#find(1 + ((address >>> 0) * 2 + direction));
      this.#lastAddress = address;
      this.#lastDirection = direction;
    }
    this.#count(this.#lastAddressCell);
  }

  /** KVM_RUN calls so far. Cheap: for a watcher that asks whether the vCPU still exits. */
  get entries(): number {
    return this.#cells[TOTALS_AT + ENTRIES] as number;
  }

  /** How many different reasons, ports and addresses there were. Cheap: some thousand loads. */
  get kinds(): number {
    const cells = this.#cells;
    let kinds = 0;
    for (let cell = 0; cell <= OVERFLOW; cell++) if ((cells[cell * 2] as number) > 0) kinds++;
    return kinds;
  }

  report(): ExitReport {
    const cells = this.#cells;
    const cell = (index: number): ExitCount => ({
      count: cells[index * 2] as number,
      cycles: cells[index * 2 + 1] as number,
    });
    const ports: PortExits[] = [];
    const mmio: MmioExits[] = [];
    for (let slot = 0; slot < HASHED_CELLS; slot++) {
      const key = cells[KEYS_AT + slot] as number;
      if (key === 0) continue;
      const row = cell(EXIT_REASONS + slot);
      const place = Math.abs(key) - 1;
      const isWrite = place % 2 === 1;
      if (key < 0) ports.push({ port: place >> 1, direction: isWrite ? 'out' : 'in', ...row });
      else mmio.push({ address: Math.floor(place / 2), direction: isWrite ? 'write' : 'read', ...row });
    }
    ports.sort((a, b) => a.port - b.port || a.direction.localeCompare(b.direction));
    mmio.sort((a, b) => a.address - b.address || a.direction.localeCompare(b.direction));
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
      others: cell(OVERFLOW),
    };
  }

  #count(cell: number): void {
    const cells = this.#cells;
    cells[cell * 2] = (cells[cell * 2] as number) + 1;
    this.#open = cell;
  }

  // Open addressing. A key is twice the port or address plus the direction, plus one, so that zero means a free slot;
  // a port's is negative.
  #find(key: number): number {
    const cells = this.#cells;
    let slot = (key ^ (key / 0x1000)) & (HASHED_CELLS - 1);
    for (let probe = 0; probe < MOST_PROBES; probe++) {
      const stored = cells[KEYS_AT + slot];
      if (stored === key) return EXIT_REASONS + slot;
      if (stored === 0) {
        cells[KEYS_AT + slot] = key;
        return EXIT_REASONS + slot;
      }
      slot = (slot + 1) & (HASHED_CELLS - 1);
    }
    return OVERFLOW;
  }
}

function sum(rows: readonly ExitCount[]): ExitCount {
  return rows.reduce((total, row) => ({ count: total.count + row.count, cycles: total.cycles + row.cycles }), {
    count: 0,
    cycles: 0,
  });
}
