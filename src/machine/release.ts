// Gives back what a machine that has ended held of the host: its VM, its eventfds, its memory.
// close(2); madvise(2), MADV_DONTNEED.
import { advise } from '../kvm/host-memory.js';
import { closeBoardFds } from './board.js';
import type { Machine } from './machine.js';
import type { MappedRam } from './snapshot/mapped-ram.js';

export function releaseMachine({
  kvm,
  fds,
  memory,
  restored,
}: Pick<Machine, 'kvm' | 'fds' | 'memory'> & { readonly restored?: { readonly mapped: MappedRam } }): void {
  kvm.close();
  closeBoardFds(fds);
  // Dropped WebAssembly memories wait for the collector; their pages need not.
  if (restored !== undefined) restored.mapped.release();
  else for (const { bytes } of memory.regions) advise(bytes, 'DONTNEED');
}
