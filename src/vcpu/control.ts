// The words through which an owner commands one vCPU thread and sees what it does: shared, one block a vCPU.
// Each word names its writer; the other side only reads it. Waiting is Atomics.wait on DOORBELL (worker) only.

/** Index of each word in the block. */
export const CONTROL = {
  /**
   * Owner → worker: one of COMMAND in the low bits, above them a number that grows with each command, so that RUN
   * and PARK in quick succession are not taken for no change. Read after every kick, once immediate_exit was cleared.
   */
  COMMAND: 0,
  /** Owner → worker: bumped after COMMAND or a message; a parked worker waits on it. */
  DOORBELL: 1,
  /** Owner → worker: 1 asks for LIVENESS at the next kick; the worker exchanges it to 0. */
  PROBE: 2,
  /** Worker → owner: one of LIVENESS, as of the last probe. */
  LIVENESS: 3,
  /** Worker → owner: counts the probes answered. */
  PROBES: 4,
} as const;

export const CONTROL_WORDS = 16;

/** Bits of the command in its word. */
export const COMMAND_BITS = 4;
export const COMMAND_MASK = (1 << COMMAND_BITS) - 1;

/** RUN_TO_EXIT: until one exit has been served; the vCPU waits then, as for a debugger. */
export const COMMAND = { PARK: 0, RUN: 1, STOP: 2, STOP_AND_CAPTURE: 3, RUN_TO_EXIT: 4 } as const;

export const LIVENESS = {
  /** Executing, or halted with interrupts enabled: something can still happen. */
  ALIVE: 0,
  /** Halted with interrupts disabled: only NMI, INIT or reset could wake it, and nothing here sends them. */
  HALTED: 1,
  /** An application processor that was never started. */
  WAITS_FOR_SIPI: 2,
} as const;

export type Liveness = (typeof LIVENESS)[keyof typeof LIVENESS];
