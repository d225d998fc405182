// How the tests run on the SVM host (see suite.mjs): one file at a time, in the order in which they are named.
// A processor there is some ten times slower, so limits of time are ten times longer; no test asserts speed.
import { BaseSequencer } from 'vitest/node';
import base from '../../vitest.config.js';
import { svmFiles } from './files.mjs';

class LongestFirst extends BaseSequencer {
  async sort(specifications) {
    const order = svmFiles();
    const place = ({ moduleId }) => order.findIndex((file) => moduleId.endsWith(file));
    return specifications.toSorted((a, b) => place(a) - place(b));
  }
}

export default {
  test: {
    ...base.test,
    include: svmFiles(),
    pool: 'forks',
    maxWorkers: 1,
    testTimeout: 600_000,
    hookTimeout: 600_000,
    cache: false,
    sequence: { sequencer: LongestFirst },
    // A test a line as it ends: a run takes minutes, and one that hangs must show where.
    reporters: ['verbose', './dist/test/support/file-line.js', './dist/test/support/closing-line.js'],
  },
};
