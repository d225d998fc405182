// What a lesson is: a worked guest with its VMM, an exercise, and the exam that grades it.
// Our own; the table of lessons is lessons.ts.
import type { VcpuFd } from 'microvisor';
import type { BuiltGuest } from './build.js';
import type { RigOptions, RigRun } from './rig.js';

/** Gets what a lesson prints, piece by piece. */
export interface LessonOutput {
  readonly output: (text: string) => void;
}

export interface Lesson {
  /** The folder in guests/; it starts with the lesson's number. */
  readonly name: string;
  readonly summary: string;
  /** The file that the student completes, in the lesson's folder; the solution has the same name in `solution/`. */
  readonly exercise: 'exercise.S' | 'exercise.c' | 'exercise.mjs';
  /** Runs the worked guest. */
  run(options: LessonOutput): Promise<object>;
  /** Grades the exercise: returns when everything is as it should be. @throws ExamFailure at the first check that fails */
  grade(exam: Exam): Promise<void>;
}

/** What a failed check says to the student. */
export interface Finding {
  /** What the grader saw. */
  readonly observed: string;
  /** What is not there yet, or not right. */
  readonly missing: string;
}

/** Runs `work`, which enters the vCPU on this thread, with a time limit. */
export type Guard = <T>(vcpu: VcpuFd, work: () => T) => T;

/** What a lesson's grader works with. */
export interface Exam {
  /** The student's guest, for `origin`. @throws ExamFailure that quotes the assembler or compiler */
  guest(origin: number): BuiltGuest;
  /** What the student's module exports. @throws ExamFailure when it cannot be loaded */
  module(): Promise<Readonly<Record<string, unknown>>>;
  /** Runs a guest in the grader's VMM; one that spins is ended by a time limit (stop `kicked`). */
  run(options: RigOptions): RigRun;
  /** The same limit, for a lesson's own VMM. */
  readonly guard: Guard;
  /** Milliseconds that a machine of createVm may take. */
  readonly limitMs: number;
  /** Notes a passed check. @throws ExamFailure when it is not passed */
  check(what: string, passed: boolean, finding: () => Finding): void;
}
