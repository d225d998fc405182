// The vCPU thread's end of the exit statistics: counts each exit, and closes the time of those that are timed.
// KVM API 5 (exit_reason). statistics.ts says what the cells are and reads them.
//
// Functions that close over the cells, and not a class, for the reason that exit-path.ts gives.
import { STATISTICS_LAYOUT } from './statistics-layout.js';

const {
  reasons: REASONS,
  hashedCells: HASHED_CELLS,
  overflow: OVERFLOW,
  cell: CELL,
  timed: TIMED,
  cycles: CYCLES,
  keysAt: KEYS_AT,
  interrupted: INTERRUPTED,
  running: RUNNING,
} = STATISTICS_LAYOUT;
/** So many exits are all timed: a boot. */
const TIMED_FIRST = 0x4000;
/** Then so many are not between two KVM_RUNs that are: one exit in 61, a prime, so that no loop of a guest keeps step. */
const UNTIMED = 59;
/** Most probes of a look-up: a guest that touches thousands of addresses costs no more than this. */
const MOST_PROBES = 16;
const NONE = -1;

/** One vCPU thread calls these, in the order of its exits. */
export interface ExitCounter {
  /** The run loop begins and ends. @param now TSC cycles, as all times here */
  started(now: number): void;
  stopped(now: number): void;
  /**
   * After a KVM_RUN that was timed, before its exit is counted: closes the time of the exit before, if that was timed.
   * The stamps are where KVM_RUN leaves them: as arguments they would be a box each.
   * @returns how many of the next ones need not be timed; below 0 when the next one must be
   */
  timed(): number;
  /** A kick ended KVM_RUN. */
  interrupted(): void;
  /** An exit, by its reason; one of a port or an address by that. */
  reason(reason: number): void;
  portIn(port: number): void;
  portOut(port: number): void;
  mmio(address: number, isWrite: boolean): void;
  /** As `mmio`, for an address below 4 GiB. @param address as a signed 32-bit integer */
  lowMmioRead(address: number): void;
  lowMmioWrite(address: number): void;
}

/** @param stamps VcpuFd.stamps */
export function createExitCounter(buffer: SharedArrayBuffer, stamps: Float64Array): ExitCounter {
  const cells = new Float64Array(buffer);
  // In a buffer of its own and not in variables: its place is a constant to the compiler, and its words need no checks.
  const last = new Int32Array(new ArrayBuffer(WORDS * 4)).fill(NONE);
  /** Whether the time of the exit being handled will be known at the next entry. */
  let isTiming = false;
  let exitsToTime = TIMED_FIRST;
  // When the last timed exit was, and until when RUNNING counts. An array, for a variable would be a box.
  const times = new Float64Array(2);

  const count = (cell: number): void => {
    cells[cell] = (cells[cell] as number) + 1;
    last[CURRENT] = cell;
  };

  const ranUntil = (now: number): void => {
    cells[RUNNING] = (cells[RUNNING] as number) + (now - (times[COUNTED] as number));
    times[COUNTED] = now;
  };

  return {
    started(now) {
      isTiming = false;
      times[COUNTED] = now;
    },
    stopped: ranUntil,
    timed() {
      const exit = stamps[1] as number;
      const at = last[CURRENT] as number;
      if (isTiming && at !== NONE) {
        cells[at + TIMED] = (cells[at + TIMED] as number) + 1;
        cells[at + CYCLES] = (cells[at + CYCLES] as number) + ((stamps[0] as number) - (times[EXITED] as number));
      }
      times[EXITED] = exit;
      ranUntil(exit);
      if (exitsToTime > 0) exitsToTime--;
      else if (isTiming) {
        isTiming = false;
        return UNTIMED;
      }
      isTiming = true;
      return -1;
    },
    interrupted() {
      cells[INTERRUPTED] = (cells[INTERRUPTED] as number) + 1;
      last[CURRENT] = NONE;
    },
    reason: (reason) => count((reason < REASONS ? reason : REASONS - 1) * CELL),
    portIn(port) {
      if (port !== last[IN]) {
        last[IN_CELL] = find(cells, portKey(port, false));
        last[IN] = port;
      }
      count(last[IN_CELL] as number);
    },
    portOut(port) {
      if (port !== last[OUT]) {
        last[OUT_CELL] = find(cells, portKey(port, true));
        last[OUT] = port;
      }
      count(last[OUT_CELL] as number);
    },
    mmio: (address, isWrite) => count(find(cells, addressKey(address, isWrite))),
    lowMmioRead(address) {
      if (address !== last[READ] || address === NONE) {
        last[READ_CELL] = find(cells, addressKey(address >>> 0, false));
        last[READ] = address;
      }
      count(last[READ_CELL] as number);
    },
    lowMmioWrite(address) {
      if (address !== last[WRITTEN] || address === NONE) {
        last[WRITTEN_CELL] = find(cells, addressKey(address >>> 0, true));
        last[WRITTEN] = address;
      }
      count(last[WRITTEN_CELL] as number);
    },
  };
}

/** Indices of the times. */
const EXITED = 0;
const COUNTED = 1;

// The word of the last port or address of each kind, since the same ones are usually asked again, and of its cell; NONE
// before there was one, which is no port, and as an address has no cell here. Then the cell of the exit being handled;
// NONE where a kick ended KVM_RUN, whose time is nobody's. Cells are named by their first double.
const IN = 0;
const IN_CELL = 1;
const OUT = 2;
const OUT_CELL = 3;
const READ = 4;
const READ_CELL = 5;
const WRITTEN = 6;
const WRITTEN_CELL = 7;
const CURRENT = 8;
const WORDS = 9;

// A key is twice the port or address, and one more for out and write, plus one, so that zero means a free slot; a port's
// is negative. No x86 has more than 52 bits of physical address, so a double holds the key exactly.
function portKey(port: number, isOut: boolean): number {
  return -1 - (port * 2 + (isOut ? 1 : 0));
}
function addressKey(address: number, isWrite: boolean): number {
  return 1 + (address * 2 + (isWrite ? 1 : 0));
}

// Open addressing.
function find(cells: Float64Array, key: number): number {
  let slot = (key ^ (key / 0x1000)) & (HASHED_CELLS - 1);
  for (let probe = 0; probe < MOST_PROBES; probe++) {
    const stored = cells[KEYS_AT + slot];
    if (stored === 0) cells[KEYS_AT + slot] = key;
    if (stored === 0 || stored === key) return (REASONS + slot) * CELL;
    slot = (slot + 1) & (HASHED_CELLS - 1);
  }
  return OVERFLOW * CELL;
}
