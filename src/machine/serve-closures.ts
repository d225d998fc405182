// The owner's end of a machine's devices of closures: answers the mailboxes of its vCPU threads.
import { ClosureBack } from '../devices/closure-back.js';
import { CLOSURE_BELL } from './board.js';
import type { Machine } from './machine.js';

/** @returns undefined when the machine has no such device. @param onFailure a closure threw, or gave no number: what */
export function serveClosures(
  { board, fds, user }: Pick<Machine, 'board' | 'fds' | 'user'>,
  onFailure: (message: string) => void,
): ClosureBack | undefined {
  const bell = fds.owner.get(CLOSURE_BELL);
  if (bell === undefined) return undefined;
  return new ClosureBack(
    user.map(({ handler }) => handler),
    { mailboxes: board.mailboxes, bell, onFailure },
  );
}
