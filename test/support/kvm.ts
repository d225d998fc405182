// Decides whether a test that needs /dev/kvm runs, is skipped with its reason, or fails because KVM is required here.
import { accessSync, constants } from 'node:fs';

/** The reason why /dev/kvm cannot be used, or undefined when it can. */
export function kvmUnavailable(): string | undefined {
  try {
    accessSync('/dev/kvm', constants.R_OK | constants.W_OK);
    return undefined;
  } catch (error) {
    const reason = `/dev/kvm: ${error instanceof Error ? error.message : String(error)}`;
    // Where the host is known to have KVM, a skipped KVM test would hide a failure (set by .ci/run).
    if (process.env['MICROVISOR_REQUIRE_KVM'] === '1')
      throw new Error(`this run requires KVM, but ${reason}`, { cause: error });
    process.stderr.write(`skipped, needs /dev/kvm: ${reason}\n`);
    return reason;
  }
}

/** For `describe.skipIf(noKvm)`: true when /dev/kvm cannot be opened; the reason is printed once per file. */
export const noKvm = kvmUnavailable() !== undefined;
