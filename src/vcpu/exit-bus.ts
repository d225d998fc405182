// What the run loop asks of the floor above it: a bus that serves an access, and a remedy for what KVM cannot emulate.

/** Serves port or MMIO accesses. Values are unsigned; `size` is 1, 2 or 4 bytes. Must not throw for any address. */
export interface ExitBus {
  read(address: number, size: number): number;
  write(address: number, size: number, value: number): void;
}

/** The same for MMIO, where an address below 4 GiB is no small integer: as a signed one of 32 bits it needs no box. */
export interface MmioExitBus extends ExitBus {
  /** @param address `address | 0` of what `read` takes */
  readLow(address: number, size: number): number;
  /** @param address `address | 0` of what `write` takes */
  writeLow(address: number, size: number, value: number): void;
}

/** Handles the exits of hosts whose KVM falls short. Each call: true when performed and the guest can go on. */
export interface ExitAssist {
  /** KVM_EXIT_INTERNAL_ERROR with suberror KVM_INTERNAL_ERROR_EMULATION. */
  emulationFailure(): boolean;
  /** KVM_EXIT_DEBUG. */
  debug(): boolean;
  /** KVM_EXIT_X86_WRMSR. */
  wrmsr(): boolean;
}
