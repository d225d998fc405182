// How the tests run: on compiled JavaScript, because a worker thread on Node 20 cannot load TypeScript.
import { defineConfig } from 'vitest/config';

// What is whole in a soak takes ten times as long.
const LIMIT_MS = process.env.MICROVISOR_SOAK === '1' ? 600_000 : 60_000;

export default defineConfig({
  test: {
    include: ['dist/test/{unit,kvm,linux}/**/*.test.js'],
    // Node loads our own code as a user's process does: one instance of each module, real worker URLs.
    server: { deps: { external: [/\/dist\//] } },
    pool: 'forks',
    globalSetup: ['./dist/test/support/install-programs.js'],
    // Two files at a time: real boots are processor-bound and these tests must also pass on two cores.
    maxWorkers: 2,
    testTimeout: LIMIT_MS,
    hookTimeout: LIMIT_MS,
    reporters: ['default', './dist/test/support/closing-line.js'],
  },
});
