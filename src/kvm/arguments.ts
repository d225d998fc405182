// Checks and encodings of arguments that several calls share.
// KVM API 4.37 (struct kvm_enable_cap).
import { kvmEnableCap } from './abi-struct.js';

/** struct kvm_enable_cap, for a VM and for a vCPU. @throws RangeError for more than four arguments */
export function encodeEnableCap(cap: number, args: readonly (number | bigint)[], flags: number): Uint8Array {
  if (args.length > 4) throw new RangeError(`KVM_ENABLE_CAP takes four arguments at most, not ${args.length}`);
  const [first = 0, second = 0, third = 0, fourth = 0] = args;
  return kvmEnableCap.encode({
    cap: unsigned32(cap, 'the capability'),
    flags: unsigned32(flags, 'the flags'),
    'args[0]': BigInt(first),
    'args[1]': BigInt(second),
    'args[2]': BigInt(third),
    'args[3]': BigInt(fourth),
  });
}

/** A GPA or port as the kernel's u64. @throws RangeError for what is no safe integer from 0 on */
export function unsigned64(address: number): bigint {
  if (!Number.isSafeInteger(address) || address < 0)
    throw new RangeError(`an address must be an integer from 0 to 2^53 - 1, not ${address}`);
  return BigInt(address);
}

/** @throws RangeError; DataView would silently take any number modulo 2^32 */
export function unsigned32(value: number, name: string): number {
  if (!Number.isInteger(value) || value < 0 || value > 0xffff_ffff)
    throw new RangeError(`${name} must be an unsigned 32-bit integer, not ${value}`);
  return value;
}
