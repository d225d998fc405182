// The wait of a vCPU thread for the owner: the two accesses of a guest that do not return at once.
// ECMAScript §25.4.13 (Atomics.wait); whoever changes the word notifies it.

/** How a front waits on its vCPU thread; the thread's own worker implements it. */
export interface OwnerWait {
  /**
   * Blocks the calling thread until `words[index]` is not `expected`.
   * @returns false when the vCPU was told to stop meanwhile: nobody will answer any more
   */
  until(words: Int32Array<SharedArrayBuffer>, index: number, expected: number): boolean;
}

/** For the owner's own thread, which would wait for itself. */
export const NO_WAIT: OwnerWait = { until: () => false };
