// Takes the state of a paused machine, all but its RAM, in the one order in which nothing is missed.
// KVM API 4.25 to 4.30, 4.72, 4.75; VIRTIO 1.2 §2.7 for what "held" means to a queue.
import { stat } from 'node:fs/promises';
import { cpus, release } from 'node:os';
import { resolve } from 'node:path';
import { KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE } from '../../kvm/abi.js';
import { System } from '../../kvm/system.js';
import type { CompleteConfig } from '../config.js';
import type { VmReport } from '../report.js';
import { readClocks } from './clocks.js';
import type { HeldMachine } from './hold.js';
import { ARCHITECTURE, type FileMark, type MachineState, type SavedConfig } from './state.js';

export interface CapturedMachine extends HeldMachine {
  readonly kernel: VmReport['kernel'];
}

export type StateWithoutRam = Omit<MachineState, 'ram'>;

/** Once the devices are held. What comes from the host after this, a key that is typed, is not in the state. */
export async function captureState(machine: CapturedMachine): Promise<StateWithoutRam> {
  const { threads, kvm, board, quirks, kernel, consoles, config, backs } = machine;
  using system = System.open();
  const indices = system.msrIndexList();
  const vcpus = await Promise.all(threads.map((thread) => thread.call('saveState', indices)));
  const files = await marksOf(config);
  // From here on nothing waits, so that these belong together, and to the RAM that is written next.
  const [boot] = vcpus;
  if (boot === undefined) throw new Error('a machine without a vCPU has no state to save');
  const { clock, hostTsc } = readClocks(kvm, boot.tsc);
  return {
    architecture: ARCHITECTURE,
    host: { kernel: release(), processor: cpus()[0]?.model ?? '' },
    savedAt: Date.now(),
    config: savedConfig(machine),
    kernel: { ...kernel, placed: kernel.placed.map((place) => ({ ...place })) },
    quirks: [...quirks],
    files,
    offers: backs.map(({ device: { offer } }) => ({
      name: offer.name,
      deviceId: offer.deviceId,
      features: [...offer.features],
      queueSizes: [...offer.queueSizes],
      config: offer.config,
    })),
    registers: mutable(board.registers.save()),
    vcpus: vcpus.map(({ tsc: { khz, offset }, ...vcpu }) => ({
      ...vcpu,
      tsc: { khz, offset, value: BigInt.asUintN(64, hostTsc + offset) },
      msrs: [...vcpu.msrs],
    })),
    irqchips: {
      picMaster: kvm.getIrqchip(KVM_IRQCHIP_PIC_MASTER),
      picSlave: kvm.getIrqchip(KVM_IRQCHIP_PIC_SLAVE),
      ioapic: kvm.getIrqchip(KVM_IRQCHIP_IOAPIC),
    },
    pit: kvm.getPit2(),
    clock,
    prompt: consoles.main.lines.unfinished,
    ...(consoles.exec === undefined ? {} : { exec: consoles.exec.save() }),
  };
}

function mutable({ fields, areas }: ReturnType<HeldMachine['board']['registers']['save']>): MachineState['registers'] {
  return { fields: fields.map(([...row]) => row), areas: areas.map(([...row]) => row) };
}

function savedConfig({ config, backs, user }: CapturedMachine): SavedConfig {
  const { memoryMiB, firmware, console, consoleOverflow, entropy, disks, nets, virtio } = config;
  return {
    memoryMiB,
    cpus: config.cpus,
    firmware,
    console,
    consoleOverflow,
    entropy,
    disks: disks.map(({ path, overlay, ...disk }) => ({
      ...disk,
      path: resolve(path),
      ...(overlay === undefined ? {} : { overlay: resolve(overlay) }),
    })),
    nets: nets.map(({ backend, lockMac }, index) => ({
      ...('kind' in backend ? { backend } : {}),
      lockMac,
      // It may have been chosen at random; the guest has read it.
      mac: macOf(backs.find(({ device }) => device.offer.name === `net${index}`)?.device.offer.config),
    })),
    virtio: virtio.length,
    devices: user.map(({ name }) => name),
  };
}

/** VIRTIO 1.2 §5.1.4: the address comes first. */
function macOf(config: Uint8Array = new Uint8Array(6)): string {
  return [...config.subarray(0, 6)].map((byte) => byte.toString(16).padStart(2, '0')).join(':');
}

/** The files of the disks as they are, after all that was written to them. */
async function marksOf({ disks }: CompleteConfig): Promise<FileMark[]> {
  const paths = disks.flatMap(({ path, overlay }) => (overlay === undefined ? [path] : [path, overlay]));
  return Promise.all([...new Set(paths)].map((path) => markOf(resolve(path))));
}

export async function markOf(path: string): Promise<FileMark> {
  const { size, mtimeNs } = await stat(path, { bigint: true });
  return { path, bytes: Number(size), modified: mtimeNs };
}
