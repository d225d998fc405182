// Why a VM failed: the names that outcomes, reports and the boot doctor share.

/** Why a VM failed. */
export type FailureKind =
  | 'triple-fault'
  | 'kvm-internal-error'
  | 'kvm-entry-failed'
  | 'unknown-exit'
  | 'kernel-panic'
  | 'all-cpus-halted'
  | 'no-command-status'
  | 'vcpu-thread-crashed'
  | 'device-failed';
