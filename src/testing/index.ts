// `microvisor/testing`: guests as unit tests. Boot once, go on from there in each test, and look at what the guest did.
// Any test runner will do: nothing of one is used here. See docs/testing.md.
export {
  bootKernel,
  bootLinux,
  Bench,
  type ForkOptions,
  type KernelBenchConfig,
  type LinuxBenchConfig,
} from './bench.js';
export { Guest, type CommandResult, type RunOptions, type WaitOptions } from './guest.js';
export { DEFAULT_TIMEOUT_MS, GuestTestError } from './wait.js';
