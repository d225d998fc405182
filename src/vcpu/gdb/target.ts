// What the GDB protocol needs of a machine: the seam between the protocol, which is pure, and the vCPUs.
// GDB manual, appendix "Remote Serial Protocol": Packets, Stop Reply Packets.
import type { RegisterState } from './registers.js';

/** Index of a vCPU; the protocol's thread number is one more, because 0 means any. */
export type ThreadIndex = number;

/**
 * What a resumed thread is to do: `exit` runs until one exit has been served, for which gdb has no word. A thread that is
 * left out stays where it is.
 */
export type ThreadAction = 'continue' | 'step' | 'exit';

export type GdbStop =
  | {
      readonly kind: 'interrupted' | 'stepped' | 'software-breakpoint' | 'hardware-breakpoint';
      readonly thread: number;
    }
  | { readonly kind: 'watchpoint'; readonly thread: number; readonly address: bigint; readonly access: WatchAccess }
  /** The guest cannot go on; its registers can still be read. */
  | { readonly kind: 'failed'; readonly thread: number }
  /** The machine is gone. */
  | { readonly kind: 'ended'; readonly status: number };

export type WatchAccess = 'write' | 'access';

/** By the protocol's numbers: software and hardware breakpoint, write, read and access watchpoint. */
export const POINT_KINDS = ['software', 'hardware', 'write', 'read', 'access'] as const;
export type PointKind = (typeof POINT_KINDS)[number];

/** A breakpoint or watchpoint as gdb asks for it. */
export interface Point {
  readonly kind: PointKind;
  /** Linear. */
  readonly address: bigint;
  /** Bytes watched; for a breakpoint of no meaning here. */
  readonly length: number;
}

/** `unsupported`: never on this host. `no-memory`: not at this address. `full`: none is left. */
export type PointResult = 'ok' | 'unsupported' | 'no-memory' | 'full';

/** Every call but `interrupt` is made while the machine stands still. */
export interface GdbTarget {
  readonly threads: number;
  /** Lets threads go, and resolves with why they stopped again. @throws GdbRefusal when a step cannot be made */
  resume(actions: ReadonlyMap<ThreadIndex, ThreadAction>): Promise<GdbStop>;
  /** Ends a `resume` under way. */
  interrupt(): void;
  readRegisters(thread: ThreadIndex): Promise<RegisterState>;
  writeRegisters(thread: ThreadIndex, state: RegisterState): Promise<void>;
  /** Up to `length` bytes at a linear address; fewer, down to none, where memory ends. */
  readMemory(thread: ThreadIndex, address: bigint, length: number): Promise<Uint8Array>;
  /** @returns false when not all of it is memory; then nothing was written */
  writeMemory(thread: ThreadIndex, address: bigint, bytes: Uint8Array): Promise<boolean>;
  insert(thread: ThreadIndex, point: Point): Promise<PointResult>;
  remove(point: Point): void;
  /** The answer to `monitor TEXT`, for a person. */
  monitor(thread: ThreadIndex, text: string): Promise<string>;
  kill(): void;
}

/** A request that makes sense but cannot be served here; the message goes to the person at gdb. */
export class GdbRefusal extends Error {
  override readonly name = 'GdbRefusal';
}
