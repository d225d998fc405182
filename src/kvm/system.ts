// The kvm device: what the host's KVM can do, and where VMs come from.
// KVM API 4.1 to 4.5, 4.46, 4.18 (feature MSRs).
import {
  KVM_API_VERSION,
  KVM_CHECK_EXTENSION,
  KVM_GET_API_VERSION,
  KVM_GET_MSRS,
  KVM_GET_MSR_FEATURE_INDEX_LIST,
  KVM_GET_MSR_INDEX_LIST,
  KVM_GET_SUPPORTED_CPUID,
  KVM_GET_VCPU_MMAP_SIZE,
} from './abi.js';
import {
  decodeCpuid,
  decodeMsrList,
  decodeMsrs,
  emptyCpuid,
  emptyMsrList,
  encodeMsrs,
  type CpuidEntry,
  type MsrEntry,
} from './entries.js';
import { checked, KvmError } from './errors.js';
import { Ioctls } from './ioctls.js';
import { loadNative, type Handle } from './native.js';
import { VmFd } from './vm-fd.js';

/** KVM's own limit (KVM_MAX_CPUID_ENTRIES). */
const MAX_CPUID_ENTRIES = 256;
/** More than any kernel lists; it says how many it needs when this is too few. */
const MAX_MSRS = 4096;

export class System {
  /** Always KVM_API_VERSION. */
  readonly apiVersion: number;
  /** Size of a vCPU's mapping in bytes. */
  readonly vcpuMmapSize: number;
  readonly #ioctls: Ioctls<'system'>;

  private constructor(handle: Handle<'system'>, path: string) {
    this.#ioctls = new Ioctls(handle, path);
    this.apiVersion = this.#ioctls.integer('KVM_GET_API_VERSION', KVM_GET_API_VERSION);
    if (this.apiVersion !== KVM_API_VERSION)
      throw new Error(
        `${path}: the KVM API has version ${this.apiVersion}, and Microvisor speaks ${KVM_API_VERSION}; use a kernel from 2.6.22 on`,
      );
    this.vcpuMmapSize = this.#ioctls.integer('KVM_GET_VCPU_MMAP_SIZE', KVM_GET_VCPU_MMAP_SIZE);
  }

  /**
   * Opens the kvm device.
   * @throws KvmError with a remedy when it is missing, forbidden or no kvm device; Error for another API version
   */
  static open(path = '/dev/kvm'): System {
    const handle = checked<Handle<'system'>>(loadNative().open(path), 'open', path);
    try {
      return new System(handle, path);
    } catch (error) {
      loadNative().close(handle);
      throw error;
    }
  }

  /** KVM API 4.4: 0 when the host lacks the capability, else 1 or a number that the capability defines. */
  checkExtension(cap: number): number {
    return this.#ioctls.integer('KVM_CHECK_EXTENSION', KVM_CHECK_EXTENSION, cap);
  }

  /** KVM API 4.2. Type 0 is the ordinary VM. @throws KvmError */
  createVm(type = 0): VmFd {
    const handle = loadNative().createVm(this.#ioctls.handle, type);
    return VmFd.fromHandle(checked<Handle<'vm'>>(handle, 'KVM_CREATE_VM', `type ${type}`));
  }

  /** KVM API 4.46: what this host's KVM can show a guest. */
  supportedCpuid(): CpuidEntry[] {
    const bytes = emptyCpuid(MAX_CPUID_ENTRIES);
    this.#ioctls.buffer('KVM_GET_SUPPORTED_CPUID', KVM_GET_SUPPORTED_CPUID, bytes);
    return decodeCpuid(bytes);
  }

  /** KVM API 4.3: the MSRs that a vCPU saves and restores. */
  msrIndexList(): number[] {
    const bytes = emptyMsrList(MAX_MSRS);
    this.#ioctls.buffer('KVM_GET_MSR_INDEX_LIST', KVM_GET_MSR_INDEX_LIST, bytes);
    return decodeMsrList(bytes);
  }

  /** KVM API 4.3: the MSRs that getMsrFeatures() knows. */
  msrFeatureIndexList(): number[] {
    const bytes = emptyMsrList(MAX_MSRS);
    this.#ioctls.buffer('KVM_GET_MSR_FEATURE_INDEX_LIST', KVM_GET_MSR_FEATURE_INDEX_LIST, bytes);
    return decodeMsrList(bytes);
  }

  /** KVM API 4.18 on the device. @throws KvmError naming the first MSR that is no feature MSR */
  getMsrFeatures(indices: readonly number[]): MsrEntry[] {
    const bytes = encodeMsrs(indices.map((index) => ({ index, data: 0n })));
    const count = this.#ioctls.buffer('KVM_GET_MSRS', KVM_GET_MSRS, bytes);
    const refused = indices[count];
    if (refused !== undefined) throw new KvmError('KVM_GET_MSRS', EINVAL, `feature MSR 0x${refused.toString(16)}`);
    return decodeMsrs(bytes, count);
  }

  /** @throws Error when it is closed already */
  close(): void {
    this.#ioctls.close();
  }

  [Symbol.dispose](): void {
    this.#ioctls.dispose();
  }
}

const EINVAL = 22;
