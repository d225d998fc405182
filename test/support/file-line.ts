// The reporter that says of each file that has ended, in one plain line, how it went, after a line for each of its failures:
// for whoever runs the files that are left when a run breaks off.
import type { Reporter, TestModule } from 'vitest/node';
import { countTests, formatCount, formatFailures } from './closing-line.js';

export class FileLine implements Reporter {
  onTestModuleEnd(module: TestModule): void {
    for (const line of formatFailures([module])) process.stdout.write(`${line}\n`);
    process.stdout.write(`${module.relativeModuleId}: ${formatCount(countTests([module]))}\n`);
  }
}

// As in closing-line.ts.
// oxlint-disable-next-line import/no-default-export
export default FileLine;
