// Puts a saved state into a machine that was just composed, and says why it cannot: the parts of a restore that know KVM.
// KVM API 4.27, 4.30, 4.73; Documentation/virt/kvm/devices/vcpu.rst §4.1 (the order of clock and TSC).
import { KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE } from '../../kvm/abi.js';
import { DEVICE_ID } from '../../devices/virtio/abi.js';
import type { VirtioOffer } from '../../devices/virtio/device.js';
import type { MmioState } from '../../devices/virtio/mmio-state.js';
import type { Board } from '../board.js';
import type { Machine } from '../machine.js';
import type { UserDevice } from '../user-devices.js';
import { readClocks } from './clocks.js';
import { SnapshotError } from './error.js';
import { processorProblem, tscProblem } from './host-check.js';
import { markOf } from './capture.js';
import type { FileMark, MachineState } from './state.js';

const NANOSECONDS_PER_MS = 1_000_000n;

/** As RestoreOptions has it. */
export type Clock = 'catch-up' | 'resume' | 'set';

export interface ApplyOptions {
  /** For messages. */
  readonly path: string;
  readonly clock: Clock;
}

/**
 * After this the machine stands where the saved one stood; the vCPUs are parked and never ran.
 * @throws SnapshotError when KVM refuses a part of it
 */
export async function applyState(machine: Machine, state: MachineState, { path, clock }: ApplyOptions): Promise<void> {
  const { threads, kvm } = machine;
  const [boot] = threads;
  const [first] = state.vcpus;
  if (boot === undefined || first === undefined) throw new SnapshotError(path, 'the snapshot has no vCPU');
  for (const [index, saved] of state.vcpus.entries()) {
    const unlike = processorProblem(saved, (await threads[index]?.call('getCpuid')) ?? [], state.host);
    if (unlike !== undefined) throw new SnapshotError(path, unlike);
  }
  const tsc = await boot.call('readTsc');
  const problem = tscProblem(first.tsc.khz, tsc.khz);
  if (problem !== undefined) throw new SnapshotError(path, problem);
  // The host's clock may have been set back since.
  const elapsed = BigInt(clock === 'catch-up' ? Math.max(0, Date.now() - state.savedAt) : 0);
  try {
    // First: the TSCs are set as far ahead as kvmclock has come since. And only now KVM knows whether it tells the two of
    // one moment.
    kvm.setClock({ clock: state.clock + elapsed * NANOSECONDS_PER_MS });
    const now = readClocks(kvm, tsc);
    const ticks = ((now.clock - state.clock) * BigInt(first.tsc.khz)) / NANOSECONDS_PER_MS;
    const shift = first.tsc.value - first.tsc.offset - now.hostTsc + ticks;
    // All vCPUs by one shift: they stay apart as they were, usually by nothing.
    const offsetOf = (offset: bigint): bigint => BigInt.asUintN(64, offset + shift);
    await Promise.all(
      threads.map((thread, index) => {
        const saved = state.vcpus[index] ?? first;
        return thread.call('restoreState', { saved, tscOffset: offsetOf(saved.tsc.offset) });
      }),
    );
    // After the LAPICs, which pending interrupts go to.
    kvm.setIrqchip(KVM_IRQCHIP_PIC_MASTER, state.irqchips.picMaster);
    kvm.setIrqchip(KVM_IRQCHIP_PIC_SLAVE, state.irqchips.picSlave);
    kvm.setIrqchip(KVM_IRQCHIP_IOAPIC, state.irqchips.ioapic);
    kvm.setPit2(state.pit);
  } catch (cause) {
    throw new SnapshotError(path, `the state cannot be set: ${(cause as Error).message}`, { cause });
  }
}

/** @throws SnapshotError for what no machine with these devices can have left */
export function loadRegisters(board: Board, { registers }: MachineState, path: string): void {
  try {
    board.registers.load(registers);
  } catch (cause) {
    throw new SnapshotError(path, (cause as Error).message, { cause });
  }
  if (board.events.pending.get() !== 0) throw new SnapshotError(path, 'the snapshot is of a machine that had ended');
  for (const [name, { uart }] of board.legacy.uarts) {
    const { tx, rx, loop } = uart.state;
    if (![tx, rx, loop].every((ring) => ring.isSound()))
      throw new SnapshotError(path, `the snapshot's ${name} has a broken ring`);
  }
  for (const [index, { fields }] of board.virtio.entries())
    if (fields.REQUESTS.get() !== fields.ANSWERS.get() || fields.RESET.get() !== 0)
      throw new SnapshotError(path, `virtio device ${index} of the snapshot waits for an answer`);
}

/** Why the devices are not those of the saved machine; undefined when they are. */
export function offersProblem(saved: MachineState['offers'], offers: readonly VirtioOffer[]): string | undefined {
  if (saved.length !== offers.length)
    return `the machine had ${saved.length} virtio devices (${saved.map(({ name }) => name).join(', ')}), not ${offers.length}`;
  for (const [index, theirs] of saved.entries()) {
    const ours = offers[index] as VirtioOffer;
    if (theirs.name !== ours.name || theirs.deviceId !== ours.deviceId)
      return `virtio device ${index} of the machine was ${theirs.name}, not ${ours.name}`;
    if (theirs.features.join() !== ours.features.join() || theirs.queueSizes.join() !== ours.queueSizes.join())
      return `${ours.name} offers other features than it did; use the same kind of backend as before`;
    // A network card's configuration has its address in it, which may be replaced.
    if (ours.deviceId !== DEVICE_ID.NET && Buffer.compare(theirs.config, ours.config) !== 0)
      return `${ours.name} is not as it was when the guest found it (of another size?); give it what it had`;
  }
  return undefined;
}

/** Why the program's own devices are not those of the saved machine. */
export function userProblem({ config }: MachineState, user: readonly UserDevice[]): string | undefined {
  const names = user.map(({ name }) => name);
  if (names.join() === config.devices.join()) return undefined;
  return `the machine had the devices ${config.devices.join(', ')}, not ${names.join(', ')}`;
}

/** Shows the driver the addresses that the network cards have now; Linux looks at them when it is bound to the card. */
export function replaceAddresses(states: readonly MmioState[], offers: readonly VirtioOffer[]): void {
  for (const [index, { deviceId, config }] of offers.entries())
    if (deviceId === DEVICE_ID.NET) for (const copy of states[index]?.config ?? []) copy.set(config);
}

/** @returns the first file that is not as the guest left it, as a sentence */
export async function filesProblem(files: readonly FileMark[]): Promise<string | undefined> {
  for (const saved of files) {
    let now: FileMark;
    try {
      now = await markOf(saved.path);
    } catch (error) {
      return `the disk ${saved.path} cannot be had: ${(error as NodeJS.ErrnoException).code ?? 'unknown error'}`;
    }
    if (now.bytes !== saved.bytes)
      return `the disk ${saved.path} has ${now.bytes} bytes, and had ${saved.bytes} when the snapshot was made`;
    if (now.modified !== saved.modified)
      return (
        `the disk ${saved.path} was changed since the snapshot was made, and the guest would corrupt it: go back to a ` +
        'copy of it, and name the copy in place of the disk'
      );
  }
  return undefined;
}
