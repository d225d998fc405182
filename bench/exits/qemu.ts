// QEMU on the same guest: runs of two lengths in processes of their own, whose difference is what the exits cost.
// QEMU's documentation: system/i386/microvm, isa-debugcon, isa-debug-exit.
import { spawnSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { percentile } from '../estimate.js';
import type { ExitCase } from './cases.js';
import { firmwareOf, GUEST } from './guest.js';
import { runMeasured, type Workshop } from './processes.js';

const PROGRAM = 'qemu-system-x86_64';
const RAM_MIB = 16;
/** isa-debug-exit ends QEMU with twice the guest's value, which is 0, plus 1. */
const ENDED = 1;

/** Its version, or undefined when it is not installed. */
export function qemuVersion(): string | undefined {
  const { error, stdout } = spawnSync(PROGRAM, ['--version'], { encoding: 'utf8' });
  return error === undefined ? /version (\S+)/.exec(stdout)?.[1] : undefined;
}

export class QemuSubject {
  readonly #workshop: Workshop;
  readonly #case: ExitCase;
  readonly #accelerator: string;

  /** @param accelerator as QEMU's -accel has it; `tcg` for tests where there is no KVM */
  constructor(workshop: Workshop, each: ExitCase, accelerator = 'kvm') {
    this.#workshop = workshop;
    this.#case = each;
    this.#accelerator = accelerator;
  }

  /** Processor time of `count` passes in nanoseconds, what comes before and after them included. @throws Error */
  run(count: number, stamped = false): number {
    const { op, mode } = this.#case;
    const firmware = join(this.#workshop.directory, 'firmware.bin');
    writeFileSync(firmware, firmwareOf(this.#workshop.guest, { op, mode, count, stamped }));
    writeFileSync(this.#ram, new Uint8Array(RAM_MIB << 20));
    const { cpu, status, words } = runMeasured(this.#workshop, [
      PROGRAM,
      '-accel',
      this.#accelerator,
      '-m',
      `${RAM_MIB}`,
      '-M',
      'microvm,memory-backend=ram,pit=off,pic=off,rtc=off,isa-serial=off',
      '-object',
      `memory-backend-file,id=ram,size=${RAM_MIB}M,mem-path=${this.#ram},share=on`,
      '-nodefaults',
      '-no-user-config',
      '-display',
      'none',
      '-nic',
      'none',
      '-bios',
      firmware,
      '-chardev',
      'null,id=null',
      '-device',
      `isa-debugcon,iobase=${GUEST.port},chardev=null`,
      '-device',
      `isa-debug-exit,iobase=${GUEST.endPort},iosize=1`,
    ]);
    if (status !== ENDED) throw new Error(`QEMU ended with status ${status}: ${words.split('\n')[0]}`);
    return cpu;
  }

  /** Percentiles of a pass in nanoseconds, as the guest saw them. */
  percentiles(count: number, tscKhz: number): { readonly p50: number; readonly p99: number } {
    this.run(count, true);
    const ram = readFileSync(this.#ram);
    const stamps = Array.from({ length: count }, (_, i) => (ram.readUInt32LE(GUEST.stamps + 4 * i) / tscKhz) * 1e6);
    stamps.sort((a, b) => a - b);
    return { p50: percentile(stamps, 0.5), p99: percentile(stamps, 0.99) };
  }

  get #ram(): string {
    return join(this.#workshop.directory, 'qemu-ram');
  }
}
