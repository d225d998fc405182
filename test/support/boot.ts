// What the loaders' tests share: a request with everything usual in it, and the BootError that a call must end with.
import { BootError } from '../../src/boot/errors.js';
import { loadImage } from '../../src/boot/load-image.js';
import type { BootPlan, BootRequest } from '../../src/boot/request.js';
import { GuestMemory } from '../../src/memory/guest-memory.js';

export const MIB = 1 << 20;

/** A request for an image from bytes. */
export function requestFor(bytes: Uint8Array, more: Partial<BootRequest> = {}): BootRequest {
  return { kernel: { bytes, name: 'kernel.img' }, cmdline: 'console=ttyS0', cpus: 1, firmware: 'mptable', ...more };
}

/** Loads into fresh RAM. */
export function boot(
  bytes: Uint8Array,
  more: Partial<BootRequest> = {},
  size = 64 * MIB,
): { readonly memory: GuestMemory; readonly plan: BootPlan } {
  const memory = GuestMemory.create(size);
  return { memory, plan: loadImage(memory, requestFor(bytes, more)) };
}

/** Runs `call`, which must throw a BootError, and returns it. */
export function bootError(call: () => unknown): BootError {
  let result: unknown;
  try {
    result = call();
  } catch (error) {
    if (error instanceof BootError) return error;
    throw error;
  }
  throw new Error(
    `expected a BootError, got ${JSON.stringify(result, (_, v: unknown) => (typeof v === 'bigint' ? `${v}` : v))}`,
  );
}

/** The NUL-terminated text at `gpa`. */
export function textAt(memory: GuestMemory, gpa: number): string {
  let end = gpa;
  while (memory.readU8(end) !== 0) end += 1;
  return Buffer.from(memory.read(gpa, end - gpa)).toString();
}
