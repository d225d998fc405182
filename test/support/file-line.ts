// The reporter that says of each file that has ended, in one plain line, how it went: for whoever runs the files that are
// left when a run breaks off.
import type { Reporter, TestModule } from 'vitest/node';
import { countTests, formatCount } from './closing-line.js';

export class FileLine implements Reporter {
  onTestModuleEnd(module: TestModule): void {
    process.stdout.write(`${module.relativeModuleId}: ${formatCount(countTests([module]))}\n`);
  }
}

// As in closing-line.ts.
// oxlint-disable-next-line import/no-default-export
export default FileLine;
