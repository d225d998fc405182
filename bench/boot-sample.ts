// What one measured boot gives, and what it needs: shared by bench/boot.ts and the process that it starts per boot.
// proc(5), smaps: Rss of each mapping.
import { readFileSync } from 'node:fs';

/** The guest's init prints this before anything else. */
export const USER_SPACE_LINE = 'Microvisor guest:';

export interface BootOnce {
  /** Processor time of the process in milliseconds, until the first KVM_RUN and until the first line of user space. */
  readonly firstRunCpuMs: number;
  readonly userSpaceCpuMs: number;
  readonly userSpaceWallMs: number;
  readonly exits: number;
  /** Resident memory then in MiB: of the process without guest RAM, and of guest RAM. */
  readonly residentMiB: number;
  readonly guestMiB: number;
  readonly cmdline: string;
}

/** Resident MiB of the mapping that holds guest RAM of `bytes`, from /proc/self/smaps. */
export function guestResidentMiB(bytes: number): number {
  let inGuest = false;
  let kib = 0;
  for (const line of readFileSync('/proc/self/smaps', 'utf8').split('\n')) {
    const range = /^([0-9a-f]+)-([0-9a-f]+) /.exec(line);
    if (range !== null) inGuest = Number.parseInt(range[2] ?? '', 16) - Number.parseInt(range[1] ?? '', 16) === bytes;
    else if (inGuest && line.startsWith('Rss:')) kib += Number(/\d+/.exec(line)?.[0]);
  }
  return kib / 1024;
}
