// The board: which devices a machine has, and the two buses over them. Every thread of the machine, owner included,
// builds it here from the same plain data over the same register file.
import { Bus } from '../devices/bus.js';
import { createClosureFront } from '../devices/closure-front.js';
import { allocateMailboxes, type ClosureMailbox } from '../devices/closure-mailbox.js';
import { EventFdIrqLine } from '../devices/irq-line.js';
import type { OwnerWait } from '../devices/owner-wait.js';
import { NO_WAIT } from '../devices/owner-wait.js';
import { buildLegacy, type LegacyConfig, type LegacyFronts } from '../devices/legacy/board-rows.js';
import { MachineEvents } from '../devices/machine-event.js';
import { RegisterFile, type Field } from '../devices/register-file.js';
import { MMIO_BYTES, MmioFront } from '../devices/virtio/mmio-front.js';
import { allocateMmioState, type MmioState } from '../devices/virtio/mmio-state.js';
import { EventFd } from '../kvm/event-fd.js';
import { GSI, PORT, type AddressRange } from '../memory/layout.js';
import type { VcpuBuses } from '../vcpu/worker-protocol.js';
import { attachUserDevices, reloadUserDevices, type UserDevice, type UserDeviceData } from './user-devices.js';
import { controlBell, queueBell, type VirtioSlot } from './virtio-slots.js';

/** What crosses to a vCPU thread. Structured-cloneable; the numbers are file descriptors, which each thread duplicates. */
export interface BoardData {
  readonly registers: SharedArrayBuffer;
  readonly legacy: readonly LegacyConfig[];
  readonly virtio: readonly VirtioSlot[];
  readonly user: readonly UserDeviceData[];
  readonly cpus: number;
  /** Guest RAM, for checks of what a driver says about its queues. */
  readonly ram: readonly AddressRange[];
  /** Eventfd of each GSI that a device of the board uses, bound to it by KVM_IRQFD. */
  readonly irqFds: Readonly<Record<number, number>>;
  /** Eventfd that wakes the owner's half of a device, by device name; of virtio by control and queue, see virtio-slots. */
  readonly ownerFds: Readonly<Record<string, number>>;
  /** Eventfd that tells the owner of a machine event. */
  readonly eventFd: number;
}

/** One thread's board. */
export interface Board {
  readonly pio: Bus;
  readonly mmio: Bus;
  readonly registers: RegisterFile;
  readonly events: MachineEvents;
  readonly legacy: LegacyFronts;
  /** By slot. */
  readonly virtio: readonly MmioState[];
  /** By vCPU, for the devices of closures; none when there are none. */
  readonly mailboxes: readonly ClosureMailbox[];
  /** How many accesses nobody served, of all vCPUs together. */
  readonly unclaimed: { readonly ports: Field; readonly mmio: Field };
}

/** The legacy devices of every machine, in the order of the register file. */
export function legacyDevices(memoryBytes: number, consoleOverflow: 'drop' | 'wait'): readonly LegacyConfig[] {
  return [
    {
      kind: 'uart16550',
      port: PORT.COM1,
      gsi: GSI.COM1,
      options: { name: 'COM1', onFull: consoleOverflow, flowControl: 'none' },
    },
    {
      // The exec channel: nothing may get lost on it, so it waits, and input waits until the guest's driver is open.
      kind: 'uart16550',
      port: PORT.COM2,
      gsi: GSI.COM2,
      options: { name: 'COM2', onFull: 'wait', flowControl: 'rts' },
    },
    { kind: 'i8042' },
    { kind: 'cmos-rtc', memoryBytes },
    { kind: 'debug-exit' },
    { kind: 'post-code' },
    { kind: 'acpi-pm', gsi: GSI.SCI },
  ];
}

/** The owner's eventfds, made before any thread exists. */
export interface BoardFds {
  readonly irq: ReadonlyMap<number, EventFd>;
  readonly owner: ReadonlyMap<string, EventFd>;
  readonly event: EventFd;
}

/** The devices of a board, from which every thread builds the same. */
export interface BoardPlan {
  readonly legacy: readonly LegacyConfig[];
  readonly virtio: readonly VirtioSlot[];
  readonly user: readonly UserDevice[];
  readonly cpus: number;
  readonly ram: readonly AddressRange[];
}

/** Name of the eventfd by which vCPUs wake the owner for its closures. */
export const CLOSURE_BELL = 'closures';

/** Creates the eventfds that the devices need. The caller closes them after the board. */
export function createBoardFds({ legacy, virtio, user }: BoardPlan): BoardFds {
  const irq = new Map<number, EventFd>();
  const owner = new Map<string, EventFd>();
  for (const device of legacy) {
    if ('gsi' in device && !irq.has(device.gsi)) irq.set(device.gsi, EventFd.create());
    if (device.kind === 'uart16550') owner.set(device.options.name, EventFd.create());
  }
  for (const { offer, gsi } of virtio) {
    irq.set(gsi, EventFd.create());
    owner.set(controlBell(offer), EventFd.create());
    for (const index of offer.queueSizes.keys()) owner.set(queueBell(offer, index), EventFd.create());
  }
  for (const { gsi } of user) if (gsi !== undefined) irq.set(gsi, EventFd.create());
  if (user.some(isOfClosures)) owner.set(CLOSURE_BELL, EventFd.create());
  return { irq, owner, event: EventFd.create() };
}

/** With them close their watchers. */
export function closeBoardFds({ irq, owner, event }: BoardFds): void {
  for (const eventFd of [...irq.values(), ...owner.values(), event]) eventFd.close();
}

/** The owner's board; `data` is what the vCPU threads build theirs from. */
export function createBoard(plan: BoardPlan, fds: BoardFds): { board: Board; data: BoardData } {
  const registers = RegisterFile.create();
  const board = build(registers, plan, {
    irq: (gsi) => fds.irq.get(gsi),
    owner: (device) => fds.owner.get(device),
    event: fds.event,
    wait: NO_WAIT,
    vcpu: undefined,
  });
  const number = ([key, eventFd]: readonly [string | number, EventFd]) => [key, eventFd.fd] as const;
  return {
    board,
    data: {
      registers: registers.share(),
      ...plan,
      user: plan.user.map((device) => device.data),
      irqFds: Object.fromEntries([...fds.irq].map(number)),
      ownerFds: Object.fromEntries([...fds.owner].map(number)),
      eventFd: fds.event.fd,
    },
  };
}

/** BuildVcpuBuses. */
export async function buildVcpuBuses(data: unknown, wait: OwnerWait, index: number): Promise<VcpuBuses> {
  const { registers, irqFds, ownerFds, eventFd, ...rest } = data as BoardData;
  const plan = { ...rest, user: await reloadUserDevices(rest.user) };
  // Duplicates of the owner's descriptors; they go with the thread.
  const adopt = (fd: number | undefined): EventFd | undefined => (fd === undefined ? undefined : EventFd.adopt(fd));
  const board = build(RegisterFile.attach(registers), plan, {
    irq: (gsi) => adopt(irqFds[gsi]),
    owner: (device) => adopt(ownerFds[device]),
    event: EventFd.adopt(eventFd),
    wait,
    vcpu: index,
  });
  const { words, index: at } = board.events.pending;
  return { pio: board.pio, mmio: board.mmio, pending: words.subarray(at, at + 1) };
}

interface Fds {
  irq(gsi: number): EventFd | undefined;
  owner(device: string): EventFd | undefined;
  readonly event: EventFd;
  readonly wait: OwnerWait;
  /** Index of the vCPU whose thread this is; undefined on the owner's. */
  readonly vcpu: number | undefined;
}

function build(registers: RegisterFile, plan: BoardPlan, fds: Fds): Board {
  const events = new MachineEvents(registers, fds.event);
  const irqLine = (gsi: number) => new EventFdIrqLine(required(fds.irq(gsi), `GSI ${gsi}`));
  const legacy = buildLegacy(plan.legacy, {
    registers,
    events,
    clock: { now: () => Date.now() },
    irqLine,
    ownerSignal: (device) => required(fds.owner(device), device),
  });
  const virtio = plan.virtio.map(({ offer }) => allocateMmioState(registers, offer));
  const unclaimed = registers.allocate('bus', {
    ports: { doc: 'port accesses that nobody served, modulo 2^32' },
    mmio: { doc: 'MMIO accesses that nobody served, modulo 2^32' },
  });
  const mailboxes = plan.user.some(isOfClosures) ? allocateMailboxes(registers, plan.cpus) : [];
  const pio = Bus.ports(() => unclaimed.ports.add(1));
  for (const { base, length, handler } of legacy.attachments) pio.attach(base, length, handler);
  const mmio = Bus.mmio(() => unclaimed.mmio.add(1));
  const memory = { contains: (gpa: number, length: number) => liesIn(plan.ram, gpa, length) };
  for (const [index, { offer, base }] of plan.virtio.entries()) {
    const front = new MmioFront(offer, virtio[index] as MmioState, {
      control: required(fds.owner(controlBell(offer)), offer.name),
      doorbells: offer.queueSizes.map((_, queue) => required(fds.owner(queueBell(offer, queue)), offer.name)),
      wait: fds.wait,
      memory,
    });
    mmio.attach(base, MMIO_BYTES, front);
  }
  attachUserDevices(plan.user, {
    registers,
    pio,
    mmio,
    irqLine,
    closureFront: (name, device) =>
      createClosureFront(name, device, {
        mailbox: mailboxes[fds.vcpu ?? -1] as ClosureMailbox,
        bell: required(fds.owner(CLOSURE_BELL), name),
        wait: fds.wait,
      }),
  });
  registers.seal();
  return { pio, mmio, registers, events, legacy, virtio, mailboxes, unclaimed };
}

function isOfClosures({ data }: UserDevice): boolean {
  return data.kind === 'closures';
}

function liesIn(ranges: readonly AddressRange[], gpa: number, length: number): boolean {
  return ranges.some(({ base, size }) => gpa >= base && gpa - base <= size && length <= size - (gpa - base));
}

function required(eventFd: EventFd | undefined, owner: string): EventFd {
  if (eventFd === undefined) throw new Error(`the board has no eventfd for ${owner}`);
  return eventFd;
}
