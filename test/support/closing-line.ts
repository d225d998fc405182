// The reporter that closes a test run with one plain line, `N passed, N failed, N skipped`, which any reader can parse,
// and before it names each test that failed: of a long log, often the end alone is kept.
import { stripVTControlCharacters } from 'node:util';
import type { Reporter, TestModule } from 'vitest/node';

export interface TestCount {
  passed: number;
  failed: number;
  skipped: number;
  /** Never begun: a run that was broken off. */
  pending: number;
}

export function countTests(modules: readonly TestModule[]): TestCount {
  const count: TestCount = { passed: 0, failed: 0, skipped: 0, pending: 0 };
  for (const module of modules) {
    // A file that could not be loaded has no tests, but it is a failure all the same.
    if (module.state() === 'failed' && module.errors().length > 0) count.failed += 1;
    for (const test of module.children.allTests()) count[test.result().state] += 1;
  }
  return count;
}

export function formatCount({ passed, failed, skipped, pending }: TestCount): string {
  return `${passed} passed, ${failed} failed, ${skipped + pending} skipped`;
}

/** `FAILED FILE > SUITE > TEST: the first line of what it said`, a line for each failure in these files. */
export function formatFailures(modules: readonly TestModule[]): string[] {
  const lines: string[] = [];
  const add = (name: string, errors: readonly { readonly message: string }[]): void => {
    const [said = ''] = stripVTControlCharacters(errors[0]?.message ?? 'without an error').split('\n');
    lines.push(`FAILED ${name}: ${said}`);
  };
  for (const module of modules) {
    if (module.state() === 'failed' && module.errors().length > 0) add(module.relativeModuleId, module.errors());
    for (const test of module.children.allTests('failed'))
      add(`${module.relativeModuleId} > ${test.fullName}`, test.result().errors ?? []);
  }
  return lines;
}

export class ClosingLine implements Reporter {
  onTestRunEnd(modules: readonly TestModule[], unhandledErrors: readonly unknown[]): void {
    const count = countTests(modules);
    count.failed += unhandledErrors.length;
    for (const line of formatFailures(modules)) process.stdout.write(`${line}\n`);
    process.stdout.write(`${formatCount(count)}\n`);
  }
}

// Vitest loads a reporter by path and takes the default export: the one place where the project needs it.
// oxlint-disable-next-line import/no-default-export
export default ClosingLine;
