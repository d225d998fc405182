// What the run loop asks of the floor above it: a bus that serves an access, and a remedy for what KVM cannot emulate.

/** Serves port or MMIO accesses. Values are unsigned; `size` is 1, 2 or 4 bytes. Must not throw for any address. */
export interface ExitBus {
  read(address: number, size: number): number;
  write(address: number, size: number, value: number): void;
  /**
   * The same below 4 GiB, where half of the addresses are no small integers: as signed ones of 32 bits they need no box.
   * @param address `address | 0` of what `read` takes
   */
  readLow(this: void, address: number, size: number): number;
  /** @param address `address | 0` of what `write` takes @param value signed or unsigned; bits beyond `size` do not count */
  writeLow(this: void, address: number, size: number, value: number): void;
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
