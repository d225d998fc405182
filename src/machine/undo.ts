// What exists so far of something that is being made, to be undone in reverse when a later step fails.
// Our own; Node 20 has no AsyncDisposableStack.

export type Undo = (() => void | Promise<unknown>)[];

/** Runs `make`; when it fails, what it pushed is undone, the last first, and the error goes on. */
export async function withUndo<T>(make: (undo: Undo) => Promise<T>): Promise<T> {
  const undo: Undo = [];
  try {
    return await make(undo);
  } catch (error) {
    for (const step of undo.toReversed()) await step();
    throw error;
  }
}
