// Grades exercise 12: a snapshot, by the machine that comes back from it.
// KVM API 4.8 (KVM_GET_DIRTY_LOG).
import type { Exam } from '../ladder/lesson.js';
import { hex } from '../ladder/rig.js';
import { PAGE, withGuest, type Machine, type Player } from './vmm.js';

type Save = (machine: Machine) => unknown;
type Restore = (machine: Machine, snapshot: unknown) => void;

/** How often the guest is taken back to the same moment. */
const RETURNS = 2;

export async function gradeSnapshot(exam: Exam): Promise<void> {
  const { save, restore } = await exam.module();
  for (const [name, value] of Object.entries({ save, restore }))
    exam.check(`the module exports ${name}`, typeof value === 'function', () => ({
      observed: `${name} is ${typeof value}.`,
      missing: `export function ${name}(…) { … }`,
    }));
  withGuest((player) => takeBack(exam, player, save as Save, restore as Restore), exam.guard);
}

function takeBack(exam: Exam, player: Player, save: Save, restore: Restore): void {
  player.play(5);
  const before = stateOf(player);
  // The grader reads the log itself, and passes on what it says: it has to know how many pages are dirty.
  let dirty = new Set(player.dirtyPages());
  let written = 0;
  const machine: Machine = {
    vcpu: player.vcpu,
    pages: player.pages,
    memory: {
      read: (gpa, length) => player.memory.read(gpa, length),
      write(gpa, bytes) {
        written += bytes.length;
        player.memory.write(gpa, bytes);
      },
    },
    dirtyPages() {
      const pages = [...dirty];
      dirty = new Set();
      return pages;
    },
  };
  const snapshot = save(machine);
  let first: readonly number[] | undefined;
  for (let turn = 1; turn <= RETURNS; turn++) {
    const printed = player.play(12);
    first ??= printed;
    const turns = `${turn === 1 ? 'first' : 'second'} return`;
    exam.check(`the guest prints the same before the ${turns}`, printed.join() === first.join(), () => ({
      observed: `The guest printed ${printed.join(' ')}; from the same moment it had printed ${first?.join(' ')}.`,
      missing: 'everything that the guest depends on: registers, segments, and all of the pages it had written.',
    }));
    for (const page of player.dirtyPages()) dirty.add(page);
    const dirtyCount = dirty.size;
    written = 0;
    restore(machine, snapshot);
    compare(exam, before, stateOf(player), turns);
    exam.check(`no more than the dirty pages are written (${turns})`, written <= dirtyCount * PAGE, () => ({
      observed: `${written} bytes were written to guest RAM; ${dirtyCount} pages were dirty, ${dirtyCount * PAGE} bytes.`,
      missing:
        'the log: dirtyPages() names those that the guest wrote since its last call. Call it in save as well, to start anew.',
    }));
  }
}

interface State {
  readonly regs: Readonly<Record<string, bigint>>;
  readonly es: number;
  readonly memory: Uint8Array;
}

function stateOf({ vcpu, memory, pages }: Player): State {
  return { regs: { ...vcpu.getRegs() }, es: vcpu.getSregs().es.selector, memory: memory.read(0, pages * PAGE) };
}

function compare(exam: Exam, before: State, after: State, turns: string): void {
  const register = Object.keys(before.regs).find((name) => before.regs[name] !== after.regs[name]);
  exam.check(`the general registers are back (${turns})`, register === undefined, () => ({
    observed: `${register} was ${hex(before.regs[register ?? ''] ?? 0n)} when the snapshot was taken, and is ${hex(after.regs[register ?? ''] ?? 0n)}.`,
    missing: 'vcpu.getRegs() in save, and vcpu.setRegs() in restore.',
  }));
  exam.check(`the segment registers are back (${turns})`, before.es === after.es, () => ({
    observed: `ES was ${hex(before.es)} when the snapshot was taken, and is ${hex(after.es)}.`,
    missing: 'vcpu.getSregs() in save, and vcpu.setSregs() in restore.',
  }));
  const at = before.memory.findIndex((byte, gpa) => byte !== after.memory[gpa]);
  exam.check(`the memory is back (${turns})`, at < 0, () => ({
    observed: `The byte at GPA ${hex(at)}, in page ${Math.floor(at / PAGE)}, was ${before.memory[at]} when the snapshot was taken, and is ${after.memory[at]}.`,
    missing: 'memory.read(0, pages * 4096) in save, and memory.write of each dirty page in restore.',
  }));
}
