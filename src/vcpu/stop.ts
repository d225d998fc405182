// Why a vCPU's run ended: a closed union of plain data, which crosses threads and goes into reports as it is.
// KVM API 5 (exit reasons), Intel SDM vol. 3 (shutdown: §5.1).

export type VcpuStop =
  /** A kick, and no exit: whoever kicked knows why. */
  | { readonly kind: 'kicked' }
  /** The word that `RunLoopOptions.pending` names became nonzero: a device asks for the end of the run. */
  | { readonly kind: 'pending' }
  /** HLT reached user space: only without an in-kernel interrupt controller. */
  | { readonly kind: 'hlt' }
  /** Shutdown: on x86 a triple fault. */
  | { readonly kind: 'shutdown' }
  /** KVM_EXIT_SYSTEM_EVENT. `type` is KVM_SYSTEM_EVENT_*. */
  | { readonly kind: 'system-event'; readonly type: number }
  /** KVM_EXIT_DEBUG that nobody claimed. */
  | { readonly kind: 'debug'; readonly exception: number; readonly pc: bigint; readonly dr6: bigint }
  /** KVM gave up. `bytes` are those of the instruction, when KVM said them. */
  | { readonly kind: 'internal-error'; readonly suberror: number; readonly bytes: readonly number[] }
  /** The processor refused to enter the guest. */
  | { readonly kind: 'fail-entry'; readonly hardwareReason: bigint }
  /** An exit reason that nobody handles. */
  | { readonly kind: 'unknown-exit'; readonly reason: number };

/** Suberrors of KVM_EXIT_INTERNAL_ERROR, by their names in the uapi header. */
const SUBERRORS: Readonly<Record<number, string>> = {
  1: 'KVM_INTERNAL_ERROR_EMULATION: an instruction that this KVM cannot emulate',
  2: 'KVM_INTERNAL_ERROR_SIMUL_EX: two exceptions at once',
  3: 'KVM_INTERNAL_ERROR_DELIVERY_EV: the delivery of an event failed',
  4: 'KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON: an exit that KVM did not expect',
};

/** One sentence for a person. */
export function describeStop(stop: VcpuStop): string {
  switch (stop.kind) {
    case 'kicked':
      return 'kicked';
    case 'pending':
      return 'a device asked for the end of the run';
    case 'hlt':
      return 'HLT';
    case 'shutdown':
      return 'triple fault (KVM_EXIT_SHUTDOWN)';
    case 'system-event':
      return `system event ${stop.type} (KVM_EXIT_SYSTEM_EVENT)`;
    case 'debug':
      return `debug exception ${stop.exception} at 0x${stop.pc.toString(16)} that nobody asked for`;
    case 'internal-error': {
      const bytes = stop.bytes.map((byte) => byte.toString(16).padStart(2, '0')).join(' ');
      const what = SUBERRORS[stop.suberror] ?? `suberror ${stop.suberror}`;
      return `KVM internal error, ${what}${bytes === '' ? '' : ` (${bytes})`}`;
    }
    case 'fail-entry':
      return `KVM could not enter the guest (hardware reason 0x${stop.hardwareReason.toString(16)})`;
    case 'unknown-exit':
      return `exit reason ${stop.reason}, which nothing here handles`;
  }
}
