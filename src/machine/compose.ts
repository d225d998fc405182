// Composes a machine from its configuration, all but what it starts with: VM, memory slots, board, backs, vCPU threads.
// The only place that knows all parts. KVM API 4.2, 4.24, 4.35, 4.36, 4.40, 4.71 in the order that KVM wants.
import type { VirtioDevice } from '../devices/virtio/device.js';
import { MmioBack } from '../devices/virtio/mmio-back.js';
import { QUEUE_NOTIFY } from '../devices/virtio/mmio-front.js';
import { limitWarnings } from '../devices/warning.js';
import { EventFdIrqLine } from '../devices/irq-line.js';
import { KVM_PIT_SPEAKER_DUMMY } from '../kvm/abi.js';
import { advise } from '../kvm/host-memory.js';
import type { System } from '../kvm/system.js';
import type { VmFd } from '../kvm/vm-fd.js';
import type { GuestMemory } from '../memory/guest-memory.js';
import { KVM_IDENTITY_MAP, KVM_TSS, PORT, ramRanges } from '../memory/layout.js';
import { allocateAssistCounters } from '../vcpu/assist/assist.js';
import { armSyscallRemedy } from '../vcpu/assist/syscall-remedy.js';
import { ExitStatistics } from '../vcpu/observe/statistics.js';
import { allocateTrace, switchTrace } from '../vcpu/observe/trace.js';
import { LOCK_WORDS } from '../vcpu/worker-protocol.js';
import { closeBoardFds, createBoard, createBoardFds, legacyDevices, type Board, type BoardFds } from './board.js';
import type { CompleteConfig } from './config.js';
import { serialOverflow } from './consoles.js';
import type { Machine } from './machine.js';
import type { Undo } from './undo.js';
import { checkInterrupts, type UserDevice } from './user-devices.js';
import { VcpuThread } from './vcpu-thread.js';
import { createVirtioDevices, type VirtioDevices } from './virtio-devices.js';
import { assignSlots, controlBell, queueBell, type VirtioSlot } from './virtio-slots.js';

/** The devices that have a host side, opened; and where the virtio ones lie. */
export interface OpenDevices {
  readonly virtio: VirtioDevices;
  readonly slots: readonly VirtioSlot[];
  readonly user: readonly UserDevice[];
  /** What is to be closed of the virtio devices: they themselves, later the backs that own them. */
  readonly owned: { close(): void | Promise<void> }[];
}

/** @throws ConfigError, or the error of a file or host part that cannot be opened */
export async function openDevices(
  config: CompleteConfig,
  memory: GuestMemory,
  user: readonly UserDevice[],
  undo: Undo,
): Promise<OpenDevices> {
  const virtio = await createVirtioDevices(config, memory);
  const owned: OpenDevices['owned'] = [...virtio.devices];
  undo.push(() => Promise.all(owned.map(async (part) => part.close())));
  const slots = assignSlots(
    virtio.devices.map(({ offer }) => offer),
    config.firmware,
  );
  checkInterrupts(
    user,
    slots.map(({ offer: { name }, gsi }) => ({ name, gsi })),
  );
  return { virtio, slots, user, owned };
}

export interface MachinePlan {
  readonly config: CompleteConfig;
  readonly system: System;
  /** Ids of the quirks of this host. */
  readonly quirks: readonly string[];
  readonly memory: GuestMemory;
  readonly devices: OpenDevices;
  /** Puts what a saved machine left into the registers of the devices, before anybody looks at them. */
  readonly load?: (board: Board) => void;
}

/**
 * Makes the machine; its vCPU threads start, and are ready when each thread's `ready` says so.
 * @throws KvmError, or what `load` throws
 */
export function composeMachine(plan: MachinePlan, undo: Undo): Machine {
  const { config, system, quirks, memory, devices } = plan;
  const { virtio, slots, user, owned } = devices;
  adviseMemory(memory, config);
  const kvm = createKvmVm(system, memory);
  undo.push(() => kvm.close());
  if (quirks.includes('syscall')) armSyscallRemedy(kvm);
  const ram = ramRanges(memory.size);
  const legacy = legacyDevices(memory.size, serialOverflow(config));
  const boardPlan = { legacy, virtio: slots, user, cpus: config.cpus, ram };
  const fds = createBoardFds(boardPlan);
  undo.push(() => closeBoardFds(fds));
  const { board, data } = createBoard(boardPlan, fds);
  // Before a back looks at its fields, and before another thread exists.
  plan.load?.(board);
  for (const [gsi, eventfd] of fds.irq) kvm.irqfd({ eventfd, gsi });
  let onFailure: (message: string) => void = () => undefined;
  const deviceFailure = new Promise<string>((resolve) => (onFailure = resolve));
  const backs = connectVirtio(virtio.devices, slots, { kvm, memory, board, fds, warn: warner(config), onFailure });
  owned.splice(0, owned.length, ...backs);
  // Nobody waits for a POST code: Linux writes there only to pass the time.
  kvm.registerCoalescedMmio({ address: PORT.POST_CODE, size: 1, pio: true });

  const statistics = each(config.cpus, () => new ExitStatistics(ExitStatistics.allocate()));
  const assists = each(config.cpus, () => allocateAssistCounters());
  const traces = each(config.cpus, () => traceRing(config));
  const shared = {
    cpus: config.cpus,
    supportedCpuid: system.supportedCpuid(),
    quirks,
    locks: new SharedArrayBuffer(LOCK_WORDS * 4),
    vmFd: kvm.fd,
    memory: memory.share(),
    board: data,
  };
  const threads = statistics.map(
    ({ buffer }, index) =>
      new VcpuThread(
        {
          ...shared,
          index,
          statistics: buffer,
          assists: assists[index] as SharedArrayBuffer,
          trace: traces[index],
        },
        config.threads,
      ),
  );
  undo.push(() => Promise.all(threads.map((thread) => thread.discard())));
  return { config, kvm, memory, quirks, board, fds, backs, deviceFailure, user, threads, statistics, assists, traces };
}

function traceRing({ trace }: CompleteConfig): SharedArrayBuffer | undefined {
  if (trace === false) return undefined;
  const ring = typeof trace === 'number' ? allocateTrace(trace) : allocateTrace();
  if (trace === 'explorer') switchTrace(ring, false);
  return ring;
}

function warner({ onWarning }: CompleteConfig): (message: string) => void {
  return onWarning ?? (() => undefined);
}

function createKvmVm(system: System, memory: GuestMemory): VmFd {
  const vm = system.createVm();
  try {
    vm.setIdentityMapAddr(KVM_IDENTITY_MAP);
    vm.setTssAddr(KVM_TSS);
    vm.createIrqchip();
    // The kernel answers port 0x61, with which Linux calibrates its timers.
    vm.createPit2(KVM_PIT_SPEAKER_DUMMY);
    for (const [slot, { base, bytes }] of memory.regions.entries())
      vm.setUserMemoryRegion({ slot, guestPhysAddr: base, memory: bytes });
    return vm;
  } catch (error) {
    vm.close();
    throw error;
  }
}

function adviseMemory(memory: GuestMemory, { mergeable, hugePages }: CompleteConfig): void {
  for (const { bytes } of memory.regions) {
    if (mergeable) advise(bytes, 'MERGEABLE');
    if (hugePages) advise(bytes, 'HUGEPAGE');
  }
}

interface VirtioSurroundings {
  readonly kvm: VmFd;
  readonly memory: GuestMemory;
  readonly board: Board;
  readonly fds: BoardFds;
  readonly warn: (message: string) => void;
  readonly onFailure: (message: string) => void;
}

/** Doorbells to ioeventfds, and the backs to the board. */
function connectVirtio(
  devices: readonly VirtioDevice[],
  slots: readonly VirtioSlot[],
  { kvm, memory, board, fds, warn, onFailure }: VirtioSurroundings,
): readonly MmioBack[] {
  return slots.map(({ offer, base, gsi }, index) => {
    const irq = part(fds.irq.get(gsi), offer.name);
    const doorbells = offer.queueSizes.map((_, queue) => part(fds.owner.get(queueBell(offer, queue)), offer.name));
    for (const [queue, eventfd] of doorbells.entries())
      kvm.ioeventfd({ eventfd, address: base + QUEUE_NOTIFY, length: 4, datamatch: BigInt(queue) });
    return new MmioBack(part(devices[index], offer.name), part(board.virtio[index], offer.name), {
      memory,
      irq: new EventFdIrqLine(irq),
      control: part(fds.owner.get(controlBell(offer)), offer.name),
      doorbells,
      warn: limitWarnings(warn),
      onFailure,
    });
  });
}

function part<T>(found: T | undefined, owner: string): T {
  if (found === undefined) throw new Error(`the board lacks a part of ${owner}`);
  return found;
}

function each<T>(count: number, make: (index: number) => T): T[] {
  return Array.from({ length: count }, (_, index) => make(index));
}
