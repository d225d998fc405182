// One `microvisor restore`: the heavy half of the verb, loaded when it runs.
// What a run is, once there is a VM, is run-vm.ts.
import { restoreVm } from '../machine/restore-vm.js';
import type { Vm } from '../machine/vm.js';
import { consoleOverflow } from './config-from-request.js';
import type { RestoreRequest } from './restore-request.js';
import { inWords, runMachine, type RunEnd } from './run-vm.js';
import { UsageError } from './usage-error.js';

export function runRestored({ directory, verify, clock, run }: RestoreRequest): Promise<RunEnd> {
  const { disks, nets, mergeable, hugePages, command } = run;
  return runMachine(run, async (hooks) => {
    const vm = await inWords(() =>
      restoreVm(directory, {
        ...hooks,
        verify,
        clock,
        consoleOverflow: consoleOverflow(run),
        ...(disks === undefined ? {} : { disks }),
        ...(nets === undefined ? {} : { nets }),
        ...(mergeable === undefined ? {} : { mergeable }),
        ...(hugePages === undefined ? {} : { hugePages }),
        ...(run.explore === undefined ? {} : { trace: 'explorer' as const }),
        ...(command === undefined ? {} : { exec: { argv: command } }),
      }),
    );
    await refuseIdle(vm);
    return vm;
  });
}

/** A guest that waits for a command has nothing to show to a person. */
async function refuseIdle(vm: Vm): Promise<void> {
  if (vm.task !== 'awaited') return;
  await vm.stop();
  throw new UsageError('COMMAND', 'the guest of this snapshot waits for one; add -- COMMAND');
}
