// Exit reasons by number, with the names of the uapi header. KVM API 5 (exit_reason).
import * as abi from '../../kvm/abi-exit.js';

/** `KVM_EXIT_IO` at index 2, and so on; undefined where this header knows none. */
export const EXIT_NAMES: readonly (string | undefined)[] = names();

function names(): readonly (string | undefined)[] {
  const byNumber: (string | undefined)[] = [];
  for (const [name, value] of Object.entries(abi)) {
    // KVM_EXIT_IO_IN and the like are values inside an exit, not reasons.
    if (/^KVM_EXIT_(?!IO_)[A-Z0-9_]+$/.test(name) && typeof value === 'number') byNumber[value] ??= name;
  }
  return byNumber;
}
