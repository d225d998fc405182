// Lesson 12: a snapshot is registers and memory. KVM's dirty log says which pages have changed since then.
// KVM API 4.35 (KVM_MEM_LOG_DIRTY_PAGES), 4.8 (KVM_GET_DIRTY_LOG), 4.11 to 4.14 (registers), 5 (pending accesses).
import { abi, Bus, GuestMemory, System, Vcpu, type VcpuFd } from 'microvisor';
import { buildLesson } from '../ladder/build.js';
import type { Guard } from '../ladder/lesson.js';

const ENTRY = 0x1000;
const RAM_BYTES = 1 << 20;
export const PAGE = 4096;
const PORT = 0x80;
const SLOT = 0;

/** What a snapshot is taken of. */
export interface Machine {
  readonly memory: Pick<GuestMemory, 'read' | 'write'>;
  readonly vcpu: Pick<VcpuFd, 'getRegs' | 'setRegs' | 'getSregs' | 'setSregs'>;
  /** RAM in pages. */
  readonly pages: number;
  /** The numbers of the pages that the guest has written since the last call. */
  readonly dirtyPages: () => number[];
}

export interface Snapshot {
  readonly regs: ReturnType<VcpuFd['getRegs']>;
  readonly sregs: ReturnType<VcpuFd['getSregs']>;
  readonly memory: Uint8Array;
}

export function save({ memory, vcpu, pages, dirtyPages }: Machine): Snapshot {
  // The log starts anew here: from now on it names what differs from the copy.
  dirtyPages();
  return { regs: vcpu.getRegs(), sregs: vcpu.getSregs(), memory: memory.read(0, pages * PAGE) };
}

/** Takes the machine back to the snapshot. @returns how many pages had to be copied */
export function restore({ memory, vcpu, dirtyPages }: Machine, snapshot: Snapshot): number {
  const dirty = dirtyPages();
  for (const page of dirty) memory.write(page * PAGE, snapshot.memory.subarray(page * PAGE, (page + 1) * PAGE));
  vcpu.setSregs(snapshot.sregs);
  vcpu.setRegs(snapshot.regs);
  return dirty.length;
}

/** The lesson's guest, and what can be done with it. */
export interface Player extends Machine {
  /** Lets it run until it has printed `count` numbers more, which are returned. */
  play(count: number): number[];
}

/** Runs `work` with the lesson's guest at its start; the exam uses it as well, and guards against a guest that spins. */
export function withGuest<T>(work: (player: Player) => T, guard: Guard = (_vcpu, run) => run()): T {
  using system = System.open();
  using vm = system.createVm();
  vm.setIdentityMapAddr(0xfffb_c000);
  vm.setTssAddr(0xfffb_d000);
  const memory = GuestMemory.create(RAM_BYTES);
  memory.write(ENTRY, buildLesson('12-snapshot', ENTRY));
  // With this flag KVM notes each page that the guest writes. What we write ourselves it does not see.
  const window = memory.window(0, RAM_BYTES);
  vm.setUserMemoryRegion({ slot: SLOT, guestPhysAddr: 0, memory: window, flags: abi.KVM_MEM_LOG_DIRTY_PAGES });

  let wanted = 0;
  let printed: number[] = [];
  const pending = new Int32Array(1);
  const pio = Bus.ports();
  pio.attach(PORT, 1, {
    name: 'numbers',
    read: () => 0xff,
    write(_offset, _size, value) {
      printed.push(value);
      if (printed.length === wanted) pending[0] = 1;
    },
  });
  using fd = vm.createVcpu(0);
  fd.setSregs({ cs: { selector: 0, base: 0n } });
  fd.setRegs({ rip: BigInt(ENTRY), rflags: 2n });
  const vcpu = new Vcpu({ fd, pio, mmio: Bus.mmio(), pending });
  const pages = RAM_BYTES / PAGE;
  return work({
    memory,
    vcpu: fd,
    pages,
    dirtyPages() {
      const bits = vm.getDirtyLog(SLOT, pages);
      return Array.from({ length: pages }, (_, page) => page).filter(
        (page) => (((bits[page >> 3] ?? 0) >> (page & 7)) & 1) === 1,
      );
    },
    play(count) {
      wanted = count;
      printed = [];
      pending[0] = 0;
      guard(fd, () => vcpu.run());
      // The OUT at which we stopped is not over: its RIP moves on when the guest is entered again. Only then the
      // registers are those between two instructions.
      vcpu.completePending();
      return printed;
    },
  });
}

export interface SnapshotResult {
  readonly first: readonly number[];
  readonly again: readonly number[];
  readonly copied: number;
  readonly pages: number;
}

export function runSnapshot({ output }: { readonly output: (text: string) => void }): SnapshotResult {
  return withGuest((player) => {
    output(`Before the snapshot: ${player.play(8).join(' ')}\n`);
    const snapshot = save(player);
    const first = player.play(8);
    output(`After it:            ${first.join(' ')}\n`);
    const copied = restore(player, snapshot);
    const again = player.play(8);
    output(`Restored:            ${again.join(' ')}\n`);
    output(`Of ${player.pages} pages ${copied} were copied back.\n`);
    return { first, again, copied, pages: player.pages };
  });
}
