// What the kernel refused, in words: the call, what it was made on, errno, and what to do where that is known.
// KVM API chapter 4 (the errors of each call); errno(3).
import { constants } from 'node:os';
import { getSystemErrorMap } from 'node:util';

/** errno → its name, such as EINVAL. Of two names for one number the first counts. */
const CODES: ReadonlyMap<number, string> = new Map(
  Object.entries(constants.errno)
    .map(([code, errno]): [number, string] => [errno, code])
    .toReversed(),
);

const WITHOUT_KVM = 'to try Microvisor on a machine without any KVM: npm run svm-host -- COMMAND';
const ENABLE_KVM = `enable virtualization in the firmware and load the modules (modprobe kvm_intel or kvm_amd); ${WITHOUT_KVM}`;
const PERMISSION =
  'add the user to the group that owns it (sudo usermod -aG kvm $USER, then log in again), or in a container pass --device /dev/kvm';

/** `call errno` → what to do. */
const REMEDIES: Readonly<Record<string, string>> = {
  'open ENOENT': ENABLE_KVM,
  'open ENODEV': ENABLE_KVM,
  'open ENXIO': ENABLE_KVM,
  'open EACCES': PERMISSION,
  'open EPERM': PERMISSION,
  'open EBUSY': 'another hypervisor holds the processor (VirtualBox, VMware); end it',
  'open EISDIR': 'give the path of a character device, usually /dev/kvm',
  'KVM_GET_API_VERSION ENOTTY': 'this is not KVM; give the path of the kvm device, usually /dev/kvm',
  'KVM_CREATE_VM EBUSY': 'another hypervisor holds the processor (VirtualBox, VMware); end it',
  'KVM_CREATE_VM ENOMEM': 'the host has no memory left for a VM; stop others',
  'KVM_CREATE_VM EINVAL': 'the VM type is not one that this kernel has; 0 is the ordinary one',
  'KVM_CREATE_VM EMFILE': 'raise the limit of open files (ulimit -n)',
  'KVM_CREATE_VCPU EMFILE': 'raise the limit of open files (ulimit -n)',
  'KVM_CREATE_VCPU EEXIST': 'each vCPU needs an id of its own; a vCPU lives until its VM is closed',
  'KVM_CREATE_VCPU EINVAL': 'the id must be below KVM_CAP_MAX_VCPU_ID, and no more than KVM_CAP_MAX_VCPUS may exist',
  'KVM_SET_USER_MEMORY_REGION EINVAL':
    'address, size and memory must be multiples of 4096, the slot below KVM_CAP_NR_MEMSLOTS; to resize a slot delete it first',
  'KVM_SET_USER_MEMORY_REGION EEXIST': 'the guest addresses overlap another slot',
  'KVM_GET_DIRTY_LOG ENOENT': 'the slot does not exist, or was set without KVM_MEM_LOG_DIRTY_PAGES',
  'KVM_GET_DIRTY_LOG EFAULT': 'the slot has more pages than were asked for',
  'KVM_CREATE_IRQCHIP EEXIST': 'the VM has its interrupt controllers already',
  'KVM_CREATE_IRQCHIP EINVAL': 'create the interrupt controllers before the first vCPU',
  'KVM_CREATE_PIT2 ENOENT': 'create the interrupt controllers first',
  'KVM_CREATE_PIT2 EEXIST': 'the VM has its PIT already',
  'KVM_SET_IDENTITY_MAP_ADDR EINVAL': 'set it before the first vCPU is created',
  'KVM_SET_BOOT_CPU_ID EBUSY': 'set it before the first vCPU is created',
  'KVM_IRQFD EBUSY': 'this eventfd is attached to a GSI already',
  'KVM_IRQFD EINVAL': 'the VM needs its interrupt controllers (createIrqchip) before an irqfd',
  'KVM_IOEVENTFD EEXIST': 'an ioeventfd with this address, length and datamatch exists already',
  'KVM_IOEVENTFD ENOENT': 'no ioeventfd with this eventfd, address, length and datamatch is attached',
  'KVM_IRQ_LINE ENXIO': 'the VM needs its interrupt controllers (createIrqchip) before an interrupt line',
  'KVM_GET_LAPIC EINVAL': 'the VM has no in-kernel interrupt controllers',
  'KVM_SET_LAPIC EINVAL': 'the VM has no in-kernel interrupt controllers',
  'KVM_GET_IRQCHIP ENXIO': 'the VM has no in-kernel interrupt controllers',
  'KVM_SET_IRQCHIP ENXIO': 'the VM has no in-kernel interrupt controllers',
  'KVM_GET_PIT2 ENXIO': 'the VM has no PIT (createPit2)',
  'KVM_SET_PIT2 ENXIO': 'the VM has no PIT (createPit2)',
  'KVM_SET_CPUID2 EINVAL': 'CPUID cannot change any more once the vCPU ran, and must be one that the host supports',
  'adopt EINVAL': 'give the fd of an object of the same kind in this process',
  'adopt EBADF': 'the object was closed; keep it open until the other thread adopted it',
  'KVM_VCPU_TSC_OFFSET ENXIO': 'the kernel has no TSC offset for vCPUs; snapshots need Linux 5.16 or newer',
  'guard ENOSPC': 'too many guests of this process have their RAM in files; stop some',
  'madvise EINVAL':
    'address and length must be whole pages, and the kernel must have the feature (CONFIG_KSM, CONFIG_TRANSPARENT_HUGEPAGE)',
  'becomeRunner ENOSPC': 'the table of running vCPUs is full; close some',
  'becomeRunner EBUSY': 'SIGURG, SIGSTKFLT and SIGPWR have handlers in this process; free one',
};

/** The kernel's refusal of a call. */
export class KvmError extends Error {
  override readonly name = 'KvmError';
  /** Such as EINVAL. */
  readonly code: string;
  declare readonly remedy?: string;

  /**
   * @param call the ioctl's or function's name, such as KVM_CREATE_VM
   * @param errno above 0
   * @param on what it was made on or with, such as `vCPU 1`
   */
  constructor(
    readonly call: string,
    readonly errno: number,
    on: string,
    remedy?: string,
  ) {
    const code = CODES.get(errno) ?? `errno ${errno}`;
    const words = getSystemErrorMap().get(-errno)?.[1];
    const advice = remedy ?? REMEDIES[`${call} ${code}`];
    super(`${call} on ${on}: ${code}${words ? ` (${words})` : ''}${advice ? `; ${advice}` : ''}`);
    this.code = code;
    if (advice !== undefined) this.remedy = advice;
  }
}

/** The result of a native call, or the KvmError that its -errno stands for. */
export function checked<T>(result: T | number, call: string, on: string): T;
export function checked(result: number, call: string, on: string): number;
export function checked<T>(result: T | number, call: string, on: string): T | number {
  if (typeof result === 'number' && result < 0) throw new KvmError(call, -result, on);
  return result;
}
