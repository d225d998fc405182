// What a user's device must be like, as sentences: its shape, and addresses and interrupts that it cannot have.
// KVM API 4.24 (KVM_CREATE_IRQCHIP), 4.71 (KVM_CREATE_PIT2): what the kernel serves itself never reaches user space.
import type { DevicePlace, DeviceRange } from '../devices/user-device.js';
import {
  IOAPIC_BASE,
  KVM_IDENTITY_MAP,
  KVM_TSS,
  LAPIC_BASE,
  LOW_RAM_END,
  PAGE_SIZE,
  PORT,
  VIRTIO_ACPI_GSIS,
  VIRTIO_MMIO_BASE,
  type AddressRange,
} from '../memory/layout.js';

interface Taken {
  readonly base: number;
  readonly length: number;
  readonly owner: string;
}

/** Served inside KVM. */
const KERNEL_PORTS: readonly Taken[] = [
  { base: PORT.PIC_MASTER, length: 2, owner: "KVM's interrupt controller" },
  { base: PORT.PIT, length: 4, owner: "KVM's timer" },
  { base: PORT.SYSTEM_CONTROL_B, length: 1, owner: "KVM's timer" },
  { base: 0xa0, length: 2, owner: "KVM's interrupt controller" },
  { base: 0x4d0, length: 2, owner: "KVM's interrupt controller" },
];

const KERNEL_MMIO: readonly Taken[] = [
  { base: IOAPIC_BASE, length: PAGE_SIZE, owner: "KVM's IOAPIC" },
  { base: LAPIC_BASE, length: PAGE_SIZE, owner: "KVM's local APIC" },
  { base: KVM_IDENTITY_MAP, length: KVM_TSS + 3 * PAGE_SIZE - KVM_IDENTITY_MAP, owner: "KVM's own pages" },
];

/** MMIO that is free whatever the machine's RAM. */
const FREE_MMIO = `${hex(LOW_RAM_END)} to ${hex(VIRTIO_MMIO_BASE - 1)} are free`;

/** Interrupt pins that no legacy device has; virtio devices are given some of them. */
const FREE_GSIS: readonly unknown[] = VIRTIO_ACPI_GSIS;

const NAME_MAX = 64;

/** @param members what it must have beside a name and a place: `typeof` of each */
export function shapeProblem(device: unknown, members: Readonly<Record<string, string>>): string | undefined {
  if (typeof device !== 'object' || device === null) return `a device must be an object, not ${typeof device}`;
  const { name, ports, mmio, gsi } = device as Readonly<Record<string, unknown>>;
  if (typeof name !== 'string' || name === '' || name.length > NAME_MAX)
    return `a device needs a name of at most ${NAME_MAX} characters`;
  if ((ports === undefined) === (mmio === undefined))
    return `${name} needs a place: either ports or mmio, as { base, length }`;
  if (!isRange(ports ?? mmio)) return `${name}: its place must be { base, length }, two whole numbers`;
  for (const [member, type] of Object.entries(members)) {
    const value = (device as Readonly<Record<string, unknown>>)[member];
    if (typeof value !== type || value === null) return `${name}: its ${member} must be of type ${type}`;
  }
  if (gsi !== undefined && !FREE_GSIS.includes(gsi))
    return `${name}: GSI ${JSON.stringify(gsi)} is none that it can have: ${FREE_GSIS.join(', ')}`;
  return undefined;
}

/** Undefined for a range that the guest's accesses can reach; overlaps of devices are the bus's to say. */
export function rangeProblem({ ports, mmio }: DevicePlace, ram: readonly AddressRange[]): string | undefined {
  const asTaken = ram.map(({ base, size }) => ({ base, length: size, owner: 'guest RAM' }));
  const { base, length } = ports ?? mmio;
  const other = (ports === undefined ? [...asTaken, ...KERNEL_MMIO] : KERNEL_PORTS).find(
    (taken) => base < taken.base + taken.length && taken.base < base + length,
  );
  if (other === undefined) return undefined;
  const hint = ports === undefined ? `; ${FREE_MMIO}` : '; choose another';
  return `${hex(base)} to ${hex(base + length - 1)} overlaps ${other.owner} at ${hex(other.base)}${hint}`;
}

/** Undefined when every device has an interrupt pin of its own. */
export function gsiProblem(
  users: readonly { readonly name: string; readonly gsi: number | undefined }[],
): string | undefined {
  const owners = new Map<number, string>();
  for (const { name, gsi } of users) {
    if (gsi === undefined) continue;
    const other = owners.get(gsi);
    if (other !== undefined) {
      const free = FREE_GSIS.filter((it) => users.every((user) => user.gsi !== it));
      return `GSI ${gsi} of ${name} is ${other}'s; free are ${free.join(', ')}`;
    }
    owners.set(gsi, name);
  }
  return undefined;
}

function isRange(range: unknown): range is DeviceRange {
  if (typeof range !== 'object' || range === null) return false;
  const { base, length } = range as Partial<DeviceRange>;
  return Number.isSafeInteger(base) && Number.isSafeInteger(length);
}

function hex(value: number): string {
  return `0x${value.toString(16)}`;
}
