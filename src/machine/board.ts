// The board: which devices a machine has, and the two buses over them. Every thread of the machine, owner included,
// builds it here from the same plain data over the same register file.
import { Bus } from '../devices/bus.js';
import { EventFdIrqLine } from '../devices/irq-line.js';
import { buildLegacy, type LegacyConfig, type LegacyFronts } from '../devices/legacy/board-rows.js';
import { MachineEvents } from '../devices/machine-event.js';
import { RegisterFile, type Field } from '../devices/register-file.js';
import { EventFd } from '../kvm/event-fd.js';
import { GSI, PORT } from '../memory/layout.js';
import type { VcpuBuses } from '../vcpu/worker-protocol.js';

/** What crosses to a vCPU thread. Structured-cloneable; the numbers are file descriptors, which each thread duplicates. */
export interface BoardData {
  readonly registers: SharedArrayBuffer;
  readonly legacy: readonly LegacyConfig[];
  /** Eventfd of each GSI that a device of the board uses, bound to it by KVM_IRQFD. */
  readonly irqFds: Readonly<Record<number, number>>;
  /** Eventfd that wakes the owner's half of a device, by device name. */
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

/** Creates the eventfds that `legacy` needs. The caller closes them after the board. */
export function createBoardFds(legacy: readonly LegacyConfig[]): BoardFds {
  const irq = new Map<number, EventFd>();
  const owner = new Map<string, EventFd>();
  for (const device of legacy) {
    if ('gsi' in device && !irq.has(device.gsi)) irq.set(device.gsi, EventFd.create());
    if (device.kind === 'uart16550') owner.set(device.options.name, EventFd.create());
  }
  return { irq, owner, event: EventFd.create() };
}

/** With them close their watchers. */
export function closeBoardFds({ irq, owner, event }: BoardFds): void {
  for (const eventFd of [...irq.values(), ...owner.values(), event]) eventFd.close();
}

/** The owner's board; `data` is what the vCPU threads build theirs from. */
export function createBoard(legacy: readonly LegacyConfig[], fds: BoardFds): { board: Board; data: BoardData } {
  const registers = RegisterFile.create();
  const board = build(registers, legacy, {
    irq: (gsi) => fds.irq.get(gsi),
    owner: (device) => fds.owner.get(device),
    event: fds.event,
  });
  const number = ([key, eventFd]: readonly [string | number, EventFd]) => [key, eventFd.fd] as const;
  return {
    board,
    data: {
      registers: registers.share(),
      legacy,
      irqFds: Object.fromEntries([...fds.irq].map(number)),
      ownerFds: Object.fromEntries([...fds.owner].map(number)),
      eventFd: fds.event.fd,
    },
  };
}

/** BoardModule for the vCPU threads. */
export function buildVcpuBuses(data: unknown): VcpuBuses {
  const { registers, legacy, irqFds, ownerFds, eventFd } = data as BoardData;
  // Duplicates of the owner's descriptors; they go with the thread.
  const adopt = (fd: number | undefined): EventFd | undefined => (fd === undefined ? undefined : EventFd.adopt(fd));
  const board = build(RegisterFile.attach(registers), legacy, {
    irq: (gsi) => adopt(irqFds[gsi]),
    owner: (device) => adopt(ownerFds[device]),
    event: EventFd.adopt(eventFd),
  });
  const { words, index } = board.events.pending;
  return { pio: board.pio, mmio: board.mmio, pending: words.subarray(index, index + 1) };
}

interface Fds {
  irq(gsi: number): EventFd | undefined;
  owner(device: string): EventFd | undefined;
  readonly event: EventFd;
}

function build(registers: RegisterFile, configs: readonly LegacyConfig[], fds: Fds): Board {
  const events = new MachineEvents(registers, fds.event);
  const legacy = buildLegacy(configs, {
    registers,
    events,
    clock: { now: () => Date.now() },
    irqLine: (gsi) => new EventFdIrqLine(required(fds.irq(gsi), `GSI ${gsi}`)),
    ownerSignal: (device) => required(fds.owner(device), device),
  });
  const unclaimed = registers.allocate('bus', {
    ports: { doc: 'port accesses that nobody served, modulo 2^32' },
    mmio: { doc: 'MMIO accesses that nobody served, modulo 2^32' },
  });
  registers.seal();
  const pio = Bus.ports(() => unclaimed.ports.add(1));
  for (const { base, length, handler } of legacy.attachments) pio.attach(base, length, handler);
  return { pio, mmio: Bus.mmio(() => unclaimed.mmio.add(1)), registers, events, legacy, unclaimed };
}

function required(eventFd: EventFd | undefined, owner: string): EventFd {
  if (eventFd === undefined) throw new Error(`the board has no eventfd for ${owner}`);
  return eventFd;
}
