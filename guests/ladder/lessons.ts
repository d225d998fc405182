// The ladder: the lessons as a table, in their order.
// Our own; each lesson's parts lie in its folder, and are loaded when the lesson is used.
import type { Lesson } from './lesson.js';

export const LESSONS: readonly Lesson[] = [
  {
    name: '01-halt',
    summary: 'the smallest VMM: a VM, a slot of memory, a vCPU, one KVM_RUN',
    exercise: 'exercise.S',
    run: async (options) => (await import('../01-halt/vmm.js')).runHalt(options),
    grade: async (exam) => (await import('../01-halt/grade.js')).gradeHalt(exam),
  },
  {
    name: '02-port-output',
    summary: 'the run loop by hand: a guest in real mode prints through a port',
    exercise: 'exercise.S',
    run: async (options) => (await import('../02-port-output/vmm.js')).runPortOutput(options),
    grade: async (exam) => (await import('../02-port-output/grade.js')).gradePortOutput(exam),
  },
  {
    name: '03-port-input',
    summary: 'IN, and strings: what KVM_EXIT_IO carries, and how an answer gets back',
    exercise: 'exercise.mjs',
    run: async (options) => (await import('../03-port-input/vmm.js')).runPortInput(options),
    grade: async (exam) => (await import('../03-port-input/grade.js')).gradePortInput(exam),
  },
  {
    name: '04-mmio',
    summary: 'a device of registers where there is no memory slot',
    exercise: 'exercise.S',
    run: async (options) => (await import('../04-mmio/vmm.js')).runMmio(options),
    grade: async (exam) => (await import('../04-mmio/grade.js')).gradeMmio(exam),
  },
  {
    name: '05-protected-mode',
    summary: 'GDT, CR0.PE, far jump: and what a VMM sees of segments',
    exercise: 'exercise.S',
    run: async (options) => (await import('../05-protected-mode/vmm.js')).runProtectedMode(options),
    grade: async (exam) => (await import('../05-protected-mode/grade.js')).gradeProtectedMode(exam),
  },
  {
    name: '06-long-mode',
    summary: 'page tables that the guest builds, and the walk through them',
    exercise: 'exercise.S',
    run: async (options) => (await import('../06-long-mode/vmm.js')).runLongMode(options),
    grade: async (exam) => (await import('../06-long-mode/grade.js')).gradeLongMode(exam),
  },
  {
    name: '07-exceptions',
    summary: 'IDT, faults and error codes: repair, and try the instruction again',
    exercise: 'exercise.S',
    run: async (options) => (await import('../07-exceptions/vmm.js')).runExceptions(options),
    grade: async (exam) => (await import('../07-exceptions/grade.js')).gradeExceptions(exam),
  },
  {
    name: '08-timers',
    summary: 'PIC and PIT, then the local APIC: interrupts that the kernel delivers',
    exercise: 'exercise.S',
    run: async (options) => (await import('../08-timers/vmm.js')).runTimers(options),
    grade: async (exam) => (await import('../08-timers/grade.js')).gradeTimers(exam),
  },
  {
    name: '09-two-cpus',
    summary: 'INIT, SIPI and other messages between processors; counting with LOCK',
    exercise: 'exercise.S',
    run: async (options) => (await import('../09-two-cpus/vmm.js')).runTwoCpus(options),
    grade: async (exam) => (await import('../09-two-cpus/grade.js')).gradeTwoCpus(exam),
  },
  {
    name: '10-virtio-entropy',
    summary: 'a virtio driver in C: status, features, one queue, one buffer',
    exercise: 'exercise.c',
    run: async (options) => (await import('../10-virtio-entropy/vmm.js')).runEntropy(options),
    grade: async (exam) => (await import('../10-virtio-entropy/grade.js')).gradeEntropy(exam),
  },
  {
    name: '11-virtio-block',
    summary: 'a disk driver: a request of three descriptors, and the disk behind it',
    exercise: 'exercise.c',
    run: async (options) => (await import('../11-virtio-block/vmm.js')).runBlock(options),
    grade: async (exam) => (await import('../11-virtio-block/grade.js')).gradeBlock(exam),
  },
  {
    name: '12-snapshot',
    summary: 'dirty logging, and a snapshot of your own',
    exercise: 'exercise.mjs',
    run: async (options) => (await import('../12-snapshot/vmm.js')).runSnapshot(options),
    grade: async (exam) => (await import('../12-snapshot/grade.js')).gradeSnapshot(exam),
  },
  {
    name: '13-linux-boot',
    summary: 'the Linux boot protocol: what a kernel finds when it starts',
    exercise: 'exercise.mjs',
    run: async (options) => (await import('../13-linux-boot/vmm.js')).runLinuxBoot(options),
    grade: async (exam) => (await import('../13-linux-boot/grade.js')).gradeLinuxBoot(exam),
  },
];

/** The lesson that `text` names by its number (`2`, `02`) or its folder. */
export function findLesson(text: string): Lesson | undefined {
  const number = /^\d{1,2}$/.test(text) ? `${text.padStart(2, '0')}-` : undefined;
  return LESSONS.find(({ name }) => name === text || (number !== undefined && name.startsWith(number)));
}

/** `3` for 03-port-input. */
export function lessonNumber({ name }: Pick<Lesson, 'name'>): number {
  return Number(name.slice(0, 2));
}
