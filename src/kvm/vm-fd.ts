// One VM: memory slots, interrupt controllers, event descriptors, clock, and where its vCPUs come from.
// KVM API chapter 4, the calls of type "vm ioctl".
import * as abi from './abi.js';
import { encodeEnableCap, unsigned32, unsigned64 } from './arguments.js';
import type { EventFd } from './event-fd.js';
import { checked } from './errors.js';
import { Ioctls } from './ioctls.js';
import { loadNative, type Handle, type Native, type NativeMsrRange, type NativeVcpu } from './native.js';
import { VcpuFd } from './vcpu-fd.js';

export interface UserMemoryRegion {
  readonly slot: number;
  readonly guestPhysAddr: number;
  /** Shared memory, page-aligned in address and size; of length 0 it deletes the slot. It is kept alive by the VM. */
  readonly memory: Uint8Array;
  /** KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY. */
  readonly flags?: number;
  /** Where in `memory` the slot starts, in bytes; it reaches to the end. */
  readonly offset?: number;
}

export interface Irqfd {
  readonly eventfd: EventFd;
  readonly gsi: number;
  readonly deassign?: boolean;
  /** Signalled when the guest acknowledges the (then level-triggered) interrupt. */
  readonly resample?: EventFd;
}

export interface Ioeventfd {
  readonly eventfd: EventFd;
  /** Port or GPA. */
  readonly address: number;
  /** Of the write in bytes; 0 for any. */
  readonly length: 0 | 1 | 2 | 4 | 8;
  readonly pio?: boolean;
  /** Only writes of this value ring. */
  readonly datamatch?: bigint;
  readonly deassign?: boolean;
}

export type GsiRoute =
  | { readonly gsi: number; readonly irqchip: number; readonly pin: number }
  | { readonly gsi: number; readonly address: bigint; readonly data: number };

export interface CoalescedZone {
  readonly address: number;
  readonly size: number;
  readonly pio?: boolean;
}

/** Nanoseconds and cycles. `realtime` and `hostTsc` hold where `flags` says so (KVM_CLOCK_*). */
export interface Clock {
  readonly clock: bigint;
  readonly flags: number;
  readonly realtime: bigint;
  readonly hostTsc: bigint;
}

export interface MsrFilter {
  readonly defaultAllow: boolean;
  /** A set bit allows what the range's flags (KVM_MSR_FILTER_READ, _WRITE) name; a clear bit denies it. */
  readonly ranges: readonly NativeMsrRange[];
}

export class VmFd {
  readonly #native: Native = loadNative();
  readonly #ioctls: Ioctls<'vm'>;

  private constructor(handle: Handle<'vm'>) {
    this.#ioctls = new Ioctls(handle, 'the VM');
  }

  /** For System. */
  static fromHandle(handle: Handle<'vm'>): VmFd {
    return new VmFd(handle);
  }

  /**
   * The same VM on another thread (a duplicate of the descriptor). It does not keep the memory of slots that others
   * set: their VmFd must stay open as long as a vCPU runs, and it takes its slots away when it is closed.
   * @throws KvmError when `fd` is no VM
   */
  static adopt(fd: number): VmFd {
    return new VmFd(checked<Handle<'vm'>>(loadNative().adoptVm(fd), 'adopt', `VM fd ${fd}`));
  }

  /** For adopt() on another thread. @throws Error when the VM is closed */
  get fd(): number {
    return this.#ioctls.fd;
  }

  /** KVM API 4.4, for this VM. */
  checkExtension(cap: number): number {
    return this.#ioctls.integer('KVM_CHECK_EXTENSION', abi.KVM_CHECK_EXTENSION, cap);
  }

  /** KVM API 4.37. At most four arguments. */
  enableCap(cap: number, args: readonly (number | bigint)[] = [], flags = 0): void {
    this.#ioctls.buffer('KVM_ENABLE_CAP', abi.KVM_ENABLE_CAP, encodeEnableCap(cap, args, flags));
  }

  /** KVM API 4.36: three pages below 4 GiB that VMX needs for real mode. */
  setTssAddr(gpa: number): void {
    this.#ioctls.integer('KVM_SET_TSS_ADDR', abi.KVM_SET_TSS_ADDR, gpa);
  }

  /** KVM API 4.40: one more such page; before the first vCPU. */
  setIdentityMapAddr(gpa: number): void {
    this.#ioctls.buffer('KVM_SET_IDENTITY_MAP_ADDR', abi.KVM_SET_IDENTITY_MAP_ADDR, encodeU64(gpa));
  }

  /** KVM API 4.41; before the first vCPU. */
  setBspId(id: number): void {
    this.#ioctls.integer('KVM_SET_BOOT_CPU_ID', abi.KVM_SET_BOOT_CPU_ID, id);
  }

  /** KVM API 4.24: two PICs, an IOAPIC, and a LAPIC in each vCPU. */
  createIrqchip(): void {
    this.#ioctls.integer('KVM_CREATE_IRQCHIP', abi.KVM_CREATE_IRQCHIP);
  }

  /** KVM API 4.71. @param flags KVM_PIT_SPEAKER_DUMMY: the kernel answers port 0x61 */
  createPit2(flags = 0): void {
    this.#ioctls.buffer('KVM_CREATE_PIT2', abi.KVM_CREATE_PIT2, abi.kvmPitConfig.encode({ flags }));
  }

  /** KVM API 4.35. @throws KvmError; TypeError when the memory is not shared */
  setUserMemoryRegion({ slot, guestPhysAddr, memory, flags = 0, offset = 0 }: UserMemoryRegion): void {
    if (!Number.isSafeInteger(offset) || offset < 0 || offset > memory.byteLength)
      throw new RangeError(`slot ${slot}: the offset ${offset} is not inside the memory of ${memory.byteLength} bytes`);
    const part = offset === 0 ? memory : memory.subarray(offset);
    const result = this.#native.setMemory(this.#ioctls.handle, slot, flags, guestPhysAddr, part);
    checked(
      result,
      'KVM_SET_USER_MEMORY_REGION',
      `slot ${slot} (${part.byteLength} bytes at 0x${guestPhysAddr.toString(16)})`,
    );
  }

  /**
   * KVM API 4.8: one bit per page written since the last call; padded to whole 64-bit words.
   * @param pages the slot's size in pages
   */
  getDirtyLog(slot: number, pages: number): Uint8Array {
    if (!Number.isSafeInteger(pages) || pages <= 0 || pages > MAX_SLOT_PAGES)
      throw new RangeError(`slot ${slot}: the number of pages must be from 1 to ${MAX_SLOT_PAGES}, not ${pages}`);
    const bitmap = new Uint8Array(Math.ceil(pages / 64) * 8);
    checked(this.#native.dirtyLog(this.#ioctls.handle, slot, bitmap), 'KVM_GET_DIRTY_LOG', `slot ${slot}`);
    return bitmap;
  }

  /** KVM API 4.7. The vCPU belongs to the calling thread. */
  createVcpu(id: number): VcpuFd {
    const vcpu = this.#native.createVcpu(this.#ioctls.handle, id);
    return VcpuFd.fromNative(id, checked<NativeVcpu>(vcpu, 'KVM_CREATE_VCPU', `vCPU ${id}`));
  }

  /** KVM API 4.75: signalling the eventfd pulses the GSI. */
  irqfd({ eventfd, gsi, deassign = false, resample }: Irqfd): void {
    const flags =
      (deassign ? abi.KVM_IRQFD_FLAG_DEASSIGN : 0) | (resample === undefined ? 0 : abi.KVM_IRQFD_FLAG_RESAMPLE);
    const bytes = abi.kvmIrqfd.encode({
      fd: eventfd.fd,
      gsi: unsigned32(gsi, 'the GSI'),
      flags,
      resamplefd: resample?.fd ?? 0,
    });
    this.#ioctls.buffer('KVM_IRQFD', abi.KVM_IRQFD, bytes);
  }

  /** KVM API 4.59: the guest's write rings the eventfd and does not exit. */
  ioeventfd({ eventfd, address, length, pio = false, datamatch, deassign = false }: Ioeventfd): void {
    const flags =
      (datamatch === undefined ? 0 : abi.KVM_IOEVENTFD_FLAG_DATAMATCH) |
      (pio ? abi.KVM_IOEVENTFD_FLAG_PIO : 0) |
      (deassign ? abi.KVM_IOEVENTFD_FLAG_DEASSIGN : 0);
    const bytes = abi.kvmIoeventfd.encode({
      datamatch: datamatch ?? 0n,
      addr: unsigned64(address),
      len: length,
      fd: eventfd.fd,
      flags,
    });
    this.#ioctls.buffer('KVM_IOEVENTFD', abi.KVM_IOEVENTFD, bytes);
  }

  /** KVM API 4.25. */
  irqLine(gsi: number, level: 0 | 1): void {
    const bytes = abi.kvmIrqLevel.encode({ irq: unsigned32(gsi, 'the GSI'), level });
    this.#ioctls.buffer('KVM_IRQ_LINE', abi.KVM_IRQ_LINE, bytes);
  }

  /** KVM API 4.71. Returns false when the guest blocked the MSI. */
  signalMsi({ address, data }: { readonly address: bigint; readonly data: number }): boolean {
    const bytes = abi.kvmMsi.encode({
      address_lo: Number(address & 0xffff_ffffn),
      address_hi: Number((address >> 32n) & 0xffff_ffffn),
      data: unsigned32(data, 'the MSI data'),
    });
    return this.#ioctls.buffer('KVM_SIGNAL_MSI', abi.KVM_SIGNAL_MSI, bytes) > 0;
  }

  /** KVM API 4.52: replaces the whole table. */
  setGsiRouting(routes: readonly GsiRoute[]): void {
    const { kvmIrqRouting, kvmIrqRoutingEntry } = abi;
    const bytes = new Uint8Array(kvmIrqRouting.size + routes.length * kvmIrqRoutingEntry.size);
    kvmIrqRouting.encode({ nr: routes.length }, bytes);
    for (const [i, route] of routes.entries())
      kvmIrqRoutingEntry.encode(encodeRoute(route), bytes.subarray(kvmIrqRouting.size + i * kvmIrqRoutingEntry.size));
    this.#ioctls.buffer('KVM_SET_GSI_ROUTING', abi.KVM_SET_GSI_ROUTING, bytes);
  }

  /** KVM API 4.116: writes to the zone go to the coalesced ring and exit only when it is full. */
  registerCoalescedMmio(zone: CoalescedZone): void {
    this.#ioctls.buffer('KVM_REGISTER_COALESCED_MMIO', abi.KVM_REGISTER_COALESCED_MMIO, encodeZone(zone));
  }

  unregisterCoalescedMmio(zone: CoalescedZone): void {
    this.#ioctls.buffer('KVM_UNREGISTER_COALESCED_MMIO', abi.KVM_UNREGISTER_COALESCED_MMIO, encodeZone(zone));
  }

  /** KVM API 4.29: kvmclock. */
  getClock(): Clock {
    const bytes = this.#ioctls.filled('KVM_GET_CLOCK', abi.KVM_GET_CLOCK, abi.kvmClockData.size);
    const { clock, flags, realtime, host_tsc } = abi.kvmClockData.decode(bytes);
    return { clock, flags, realtime, hostTsc: host_tsc };
  }

  /** KVM API 4.30. Of the flags only KVM_CLOCK_REALTIME may be set. */
  setClock({ clock, flags = 0, realtime = 0n }: Pick<Clock, 'clock'> & Partial<Clock>): void {
    this.#ioctls.buffer('KVM_SET_CLOCK', abi.KVM_SET_CLOCK, abi.kvmClockData.encode({ clock, flags, realtime }));
  }

  /** KVM API 4.26. The state of KVM_IRQCHIP_PIC_MASTER, _PIC_SLAVE or _IOAPIC, 512 bytes. */
  getIrqchip(chip: number): Uint8Array {
    const bytes = abi.kvmIrqchip.encode({ chip_id: unsigned32(chip, 'the chip') });
    this.#ioctls.buffer('KVM_GET_IRQCHIP', abi.KVM_GET_IRQCHIP, bytes);
    return abi.kvmIrqchip.decode(bytes).chip;
  }

  /** KVM API 4.27. */
  setIrqchip(chip: number, state: Uint8Array): void {
    const bytes = abi.kvmIrqchip.encode({ chip_id: unsigned32(chip, 'the chip'), chip: state });
    this.#ioctls.buffer('KVM_SET_IRQCHIP', abi.KVM_SET_IRQCHIP, bytes);
  }

  /** KVM API 4.72: struct kvm_pit_state2. */
  getPit2(): Uint8Array {
    return this.#ioctls.filled('KVM_GET_PIT2', abi.KVM_GET_PIT2, abi.kvmPitState2.size);
  }

  /** KVM API 4.73. */
  setPit2(state: Uint8Array): void {
    this.#ioctls.buffer('KVM_SET_PIT2', abi.KVM_SET_PIT2, state);
  }

  /** KVM API 4.97. Denied accesses exit only with KVM_CAP_X86_USER_SPACE_MSR enabled. */
  setMsrFilter({ defaultAllow, ranges }: MsrFilter): void {
    const flags = defaultAllow ? abi.KVM_MSR_FILTER_DEFAULT_ALLOW : abi.KVM_MSR_FILTER_DEFAULT_DENY;
    checked(
      this.#native.setMsrFilter(this.#ioctls.handle, flags, ranges),
      'KVM_X86_SET_MSR_FILTER',
      `${ranges.length} ranges`,
    );
  }

  /** Takes away the slots set through this object, then closes. @throws Error when it is closed already */
  close(): void {
    this.#ioctls.close();
  }

  [Symbol.dispose](): void {
    this.#ioctls.dispose();
  }
}

/** KVM_MEM_MAX_NR_PAGES. */
const MAX_SLOT_PAGES = 2 ** 31 - 1;

function encodeRoute(route: GsiRoute): Parameters<typeof abi.kvmIrqRoutingEntry.encode>[0] {
  const gsi = unsigned32(route.gsi, 'the GSI');
  if ('irqchip' in route)
    return {
      gsi,
      type: abi.KVM_IRQ_ROUTING_IRQCHIP,
      'u.irqchip.irqchip': unsigned32(route.irqchip, 'the irqchip'),
      'u.irqchip.pin': unsigned32(route.pin, 'the pin'),
    };
  return {
    gsi,
    type: abi.KVM_IRQ_ROUTING_MSI,
    'u.msi.address_lo': Number(route.address & 0xffff_ffffn),
    'u.msi.address_hi': Number((route.address >> 32n) & 0xffff_ffffn),
    'u.msi.data': unsigned32(route.data, 'the MSI data'),
  };
}

function encodeZone({ address, size, pio = false }: CoalescedZone): Uint8Array {
  return abi.kvmCoalescedMmioZone.encode({
    addr: unsigned64(address),
    size: unsigned32(size, 'the size'),
    pio: pio ? 1 : 0,
  });
}

function encodeU64(value: number): Uint8Array {
  const bytes = new Uint8Array(8);
  new DataView(bytes.buffer).setBigUint64(0, unsigned64(value), true);
  return bytes;
}
