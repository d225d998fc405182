// The file under a restored machine's RAM, while the machine lives: mapped copy-on-write, and watched for being cut off.
// mmap(2): what lies beyond the end of a file that was truncated gives SIGBUS to us, and EFAULT to KVM.
import { closeSync, fstatSync, openSync } from 'node:fs';
import { EventFd } from '../../kvm/event-fd.js';
import { clearMemory, guardMemory } from '../../kvm/guest-ram.js';
import type { GuestMemory } from '../../memory/guest-memory.js';
import { SnapshotError } from './error.js';
import { mapRam, ramProblem, type RamContent } from './ram-map.js';

export interface RamSource {
  /** Open for reading; it is duplicated. */
  readonly fd: number;
  readonly content: RamContent;
  /** For messages. */
  readonly name: string;
}

export class MappedRam {
  readonly #memory: GuestMemory;
  readonly #source: RamSource;
  readonly #fd: number;
  readonly #lost: EventFd;

  /** @throws SnapshotError when the file is not as it is described, KvmError */
  constructor(memory: GuestMemory, source: RamSource) {
    const { content, name } = source;
    const problem = ramProblem(content, memory.size);
    if (problem !== undefined) throw new SnapshotError(name, problem);
    const { size } = fstatSync(source.fd);
    if (size !== content.bytes) throw new SnapshotError(name, `the file has ${size} bytes, not ${content.bytes}`);
    this.#memory = memory;
    this.#source = source;
    this.#fd = openSync(`/proc/self/fd/${source.fd}`, 'r');
    this.#lost = EventFd.create();
    try {
      for (const { bytes } of memory.regions) guardMemory(bytes, this.#lost);
      mapRam(this.#fd, memory, content, name);
    } catch (error) {
      this.release();
      throw error;
    }
  }

  /** What of the memory may be in the file though the kernel does not know its pages as present. */
  get extents(): RamContent['extents'] {
    return this.#source.content.extents;
  }

  /** `callback` gets one sentence when the guest's memory turns out to be gone. */
  onLost(callback: (message: string) => void): void {
    this.#lost.onReadable(() => callback(this.#message()));
  }

  /** Why a vCPU may have failed: the same sentence, when the file is shorter than it was. */
  problem(): string | undefined {
    return fstatSync(this.#fd).size < this.#source.content.bytes ? this.#message() : undefined;
  }

  /** Gives the memory back, which is all zeros then. The vCPUs are gone. */
  release(): void {
    for (const { bytes } of this.#memory.regions) clearMemory(bytes);
    this.#lost.close();
    closeSync(this.#fd);
  }

  #message(): string {
    return `the snapshot's RAM file ${this.#source.name} was cut off while the guest ran from it`;
  }
}
