// The library's door to the explorer: all of it is loaded when it is opened, and not before.
import type { Vm } from '../machine/vm.js';
import type { ExploreOptions, Explorer } from './explore.js';

/**
 * Opens a page on this machine that shows `vm` and steers it; before the machine runs, or while it does. Whoever has the
 * page's address has the whole machine. While no page is open nothing is looked at. The page has a timeline and latency
 * histograms when the configuration has `trace`; gdb cannot be there as well. The console's output flows from then on.
 * @throws Error that names the port when it cannot be had, or the machine's gdb
 */
export async function explore(vm: Vm, options: ExploreOptions = {}): Promise<Explorer> {
  const { openExplorer } = await import('./explore.js');
  return openExplorer(vm, options);
}
