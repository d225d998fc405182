// Grades one file: runs the lesson's exam on it, and turns the outcome into a report for a person.
// Our own.
import { statSync } from 'node:fs';
import { pathToFileURL } from 'node:url';
import { build, SourceError } from './build.js';
import type { Exam, Finding, Lesson } from './lesson.js';
import { runRig } from './rig.js';
import { Watchdog } from './watchdog.js';

/** For a guest on the rig: far more than any solution takes on a busy machine, and bearable for a person who waits. */
const GUEST_LIMIT_MS = 5000;
/** For a machine of createVm, whose threads have to start first, maybe on a host that is emulated itself. */
const MACHINE_LIMIT_MS = 20_000;

/** The first check that was not passed. */
export class ExamFailure extends Error {
  override readonly name = 'ExamFailure';
  constructor(
    readonly what: string,
    readonly finding: Finding,
  ) {
    super(`${what}: ${finding.observed} Missing: ${finding.missing}`);
  }
}

export interface Grade {
  /** The checks that were passed, in order. */
  readonly passed: readonly string[];
  /** The first that was not. */
  readonly failed: ExamFailure | undefined;
}

export interface GradeTools {
  /** For those who grade more than once. */
  readonly watchdog?: Watchdog;
  /** Milliseconds that a guest on the rig may take. */
  readonly guestLimitMs?: number;
}

/** @param path the student's file @throws Error when the host lacks something: KVM, or the tools that make a guest */
export async function gradeFile(lesson: Lesson, path: string, tools: GradeTools = {}): Promise<Grade> {
  const { watchdog = new Watchdog(), guestLimitMs = GUEST_LIMIT_MS } = tools;
  const passed: string[] = [];
  const exam: Exam = {
    guest: (origin) => translated('the source is accepted', () => build(path, origin)),
    module: () => loadModule(path),
    run: (options) => runRig(options, watchdog, guestLimitMs),
    guard: (vcpu, work) => watchdog.guard(vcpu, guestLimitMs, work),
    limitMs: MACHINE_LIMIT_MS,
    check(what, isPassed, finding) {
      if (!isPassed) throw new ExamFailure(what, finding());
      passed.push(what);
    },
  };
  try {
    await lesson.grade(exam);
    return { passed, failed: undefined };
  } catch (error) {
    if (error instanceof ExamFailure) return { passed, failed: error };
    throw error;
  }
}

function translated<T>(what: string, work: () => T): T {
  try {
    return work();
  } catch (error) {
    if (error instanceof SourceError)
      throw new ExamFailure(what, { observed: error.message, missing: 'a source without errors.' });
    throw error;
  }
}

async function loadModule(path: string): Promise<Readonly<Record<string, unknown>>> {
  try {
    // A module is loaded once by its URL: a saved file must have another one.
    const exports = (await import(`${pathToFileURL(path).href}?saved=${statSync(path).mtimeMs}`)) as object;
    return Object.fromEntries(Object.entries(exports).map(([name, value]) => [name, blamed(name, value)]));
  } catch (error) {
    const observed = `Node cannot load ${path}: ${error instanceof Error ? error.message : String(error)}.`;
    throw new ExamFailure('the module is accepted', { observed, missing: 'a module without errors.' });
  }
}

/** A function of the student's whose error is a finding, and not the grader's own. */
function blamed(name: string, value: unknown): unknown {
  if (typeof value !== 'function') return value;
  return (...args: unknown[]): unknown => {
    try {
      return value(...args) as unknown;
    } catch (error) {
      const stack = error instanceof Error ? (error.stack ?? error.message) : String(error);
      const observed = `${name} threw: ${stack.split('\n').slice(0, 2).join('\n')}`;
      throw new ExamFailure(`${name} returns`, { observed, missing: 'a return without an error.' });
    }
  };
}

/** The report, as it is printed. */
export function formatGrade(lesson: Lesson, path: string, { passed, failed }: Grade): string {
  const lines = passed.map((what) => `  ✓ ${what}`);
  if (failed === undefined) return [...lines, `Lesson ${lesson.name} is passed.`, ''].join('\n');
  const { observed, missing } = failed.finding;
  lines.push(`  ✗ ${failed.what}`, indent(observed), indent(`Missing: ${missing}`));
  return [...lines, `Lesson ${lesson.name} is not passed yet; edit ${path} and try again.`, ''].join('\n');
}

function indent(text: string): string {
  return text.replaceAll(/^/gm, '    ');
}
