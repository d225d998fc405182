// A flat binary: bytes put at an address and entered there, in the processor mode that the caller names.
// Intel SDM vol. 3A §9.1; real mode at 0x7c00 as a BIOS enters a boot sector.
import { BOOT_STACK, HIGH_MEMORY, HIGH_RAM_START } from '../memory/layout.js';
import { bootState, placeBootTables } from './boot-state.js';
import { BootError, hex } from './errors.js';
import { offerFirmware } from './firmware.js';
import type { Load } from './loader.js';
import type { Placement } from './placement.js';
import type { FlatMode } from './request.js';

/** Where a BIOS puts a boot sector, at segment 0. */
const BOOT_SECTOR = 0x7c00;

interface ModeRow {
  readonly load: number;
  /** First address that the mode cannot be entered at. */
  readonly limit: number;
}

const MODES: Readonly<Record<FlatMode, ModeRow>> = {
  real: { load: BOOT_SECTOR, limit: 0x10_0000 },
  protected: { load: HIGH_MEMORY, limit: HIGH_RAM_START },
  long: { load: HIGH_MEMORY, limit: HIGH_RAM_START },
};

/** Names of the modes, for those who check an option. */
export const FLAT_MODES = Object.keys(MODES) as readonly FlatMode[];

/** Loader for a flat binary. @param load GPA, default 0x7c00 for real mode and 0x100000 for the others */
export function flat(mode: FlatMode, load = MODES[mode].load): Load {
  return (context) => {
    const { kernel, placement } = context;
    const { limit } = MODES[mode];
    if (!Number.isSafeInteger(load) || load < 0 || load >= limit)
      throw new BootError(
        'load',
        'load',
        `a guest cannot be entered in ${mode} mode at ${Number.isSafeInteger(load) ? hex(load) : load}; give a whole number from 0 to ${hex(limit - 1)}`,
      );
    if (context.initrd)
      throw new BootError(
        context.initrd.name,
        'initrd',
        'a flat binary has no way to take an initrd; leave it out, or use multiboot',
      );
    const blame = { file: kernel.name, field: 'load' };
    placeBootTables(placement, mode, blame);
    placement.add('flat binary', load, { file: kernel, offset: 0, size: kernel.size }, blame);
    offerFirmware(context);
    const stack = mode === 'real' ? realModeStack(placement) : BOOT_STACK;
    return bootState({ mode, entry: load, stack, paragraph: mode === 'real' ? paragraphOf(load) : 0 });
  };
}

function paragraphOf(load: number): number {
  return load === BOOT_SECTOR ? 0 : load >>> 4;
}

const REAL_STACK_SIZE = 0x400;
/** Stack tops in segment 0, in order of preference. The last is for images that leave no room: they bring their own. */
const REAL_STACKS: readonly number[] = [BOOT_SECTOR, 0xfff0, 0x1000];

function realModeStack(placement: Placement): number {
  return (
    REAL_STACKS.find((top) => placement.addIfFree('boot stack', top - REAL_STACK_SIZE, undefined, REAL_STACK_SIZE)) ??
    BOOT_SECTOR
  );
}
