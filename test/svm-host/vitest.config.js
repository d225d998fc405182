// How the tests run on the SVM host (test/svm-host/suite): those whose outcome depends on the host's KVM, one file at a time.
// A processor there is some ten times slower, so limits of time are ten times longer; no test asserts speed.
import base from '../../vitest.config.js';
import { Dealer } from './dealer.js';

export default {
  test: {
    ...base.test,
    include: ['dist/test/{kvm,linux}/**/*.test.js'],
    // The command's options, messages and terminal are the same on every host; test/linux has the command with a guest.
    // A benchmark measures QEMU here, and takes a third of all the time for it.
    // A page looks the same on every host, and a browser there would take minutes to draw it; explore.test.js has what it shows.
    exclude: ['dist/test/kvm/{cli*,exits-bench,explore-page}.test.js'],
    pool: 'forks',
    maxWorkers: 1,
    testTimeout: 600_000,
    hookTimeout: 600_000,
    cache: false,
    sequence: { sequencer: Dealer },
    // A test a line as it ends: a run takes minutes, and one that hangs must show where.
    reporters: ['verbose', './dist/test/support/closing-line.js'],
  },
};
