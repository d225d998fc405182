// Where one vCPU's exit statistics lie in their shared buffer, in doubles: the cells, the keys of the hashed ones, totals.
// KVM API 5 (exit_reason). 8-byte stores are not torn on x86-64, so anyone reads them while the vCPU's thread writes.

/** Reasons below this number have a cell of their own (41 are defined today). */
const REASONS = 64;
/** Cells for ports and addresses, by direction; found by hashing. A power of two. */
const HASHED_CELLS = 2048;
/** All ports and addresses that found the table full share this cell. */
const OVERFLOW = REASONS + HASHED_CELLS;
const CELL = 3;
const KEYS_AT = (OVERFLOW + 1) * CELL;
const TOTALS_AT = KEYS_AT + HASHED_CELLS;

export const STATISTICS_LAYOUT = {
  reasons: REASONS,
  hashedCells: HASHED_CELLS,
  overflow: OVERFLOW,
  /** Doubles of a cell: count, how many of these were timed, cycles of the timed ones. */
  cell: CELL,
  timed: 1,
  cycles: 2,
  keysAt: KEYS_AT,
  /** KVM_RUN calls that a kick ended; TSC cycles inside the run loop, as of the last timed exit. */
  interrupted: TOTALS_AT,
  running: TOTALS_AT + 1,
  doubles: TOTALS_AT + 2,
} as const;
