// Makes a machine that boots: checks the configuration, composes the machine, and loads the image.
// What it consists of is compose.ts; how a saved one comes back is restore-vm.ts.
import { VM_GENERATION_BYTES } from '../boot/firmware.js';
import { checkBoot, loadImage } from '../boot/load-image.js';
import type { FileSource } from '../boot/image-file.js';
import type { BootRequest } from '../boot/request.js';
import { randomBytes } from '../devices/backend/random-source.js';
import { readSymbols } from '../boot/symbols.js';
import { System } from '../kvm/system.js';
import { GuestMemory } from '../memory/guest-memory.js';
import { ramRanges, VIRTIO_MMIO_STRIDE } from '../memory/layout.js';
import { kernelOptions, presentQuirks } from '../vcpu/assist/probe.js';
import { composeMachine, openDevices } from './compose.js';
import { completeConfig, type CompleteConfig, type VmConfig } from './config.js';
import { connectConsoles } from './consoles.js';
import type { DoctorSources } from './doctor/examine.js';
import type { GdbConfig, GdbServer } from './gdb-server.js';
import { debugFacilities, hostQuirks } from './host-quirks.js';
import { withWords } from './kernel-words.js';
import { Marks } from './marks.js';
import { withUndo } from './undo.js';
import { loadUserDevices } from './user-devices.js';
import { deviceWords } from './virtio-slots.js';
import { Vm, type VmParts } from './vm.js';

const MIB = 2 ** 20;
const RNG_SEED_BYTES = 32;

/**
 * Makes a machine that is ready to start. Everything that can be wrong with the configuration and its files is found
 * before a VM exists.
 * @throws ConfigError, BootError (files, sizes), KvmError (no /dev/kvm, no permission, not enough of something)
 */
export async function createVm(config: VmConfig): Promise<Vm> {
  const complete = completeConfig(config);
  const bytes = complete.memoryMiB * MIB;
  checkBoot(bytes, bootRequest(complete));
  if (complete.symbols !== undefined) readSymbols({ path: complete.symbols });
  const user = await loadUserDevices(complete.devices, ramRanges(bytes));
  using system = System.open();
  const probed = hostQuirks(system);
  const quirks = presentQuirks(probed);
  const quirkOptions = kernelOptions(probed);
  // Awaited: the kvm device is closed on return.
  return await withUndo(async (undo) => {
    const memory = GuestMemory.create(bytes);
    const devices = await openDevices(complete, memory, user, undo);
    const { slots, virtio } = devices;
    const words = [complete.appendQuirkOptions ? quirkOptions : '', ...deviceWords(slots, complete.firmware)];
    const windows = slots.map(({ base, gsi }) => ({ base, size: VIRTIO_MMIO_STRIDE, gsi }));
    const request = {
      ...bootRequest(complete, words),
      devices: windows,
      rngSeed: randomBytes(RNG_SEED_BYTES),
      vmGenerationId: randomBytes(VM_GENERATION_BYTES),
    };
    // What was added may have made the command line too long.
    if (words.some((word) => word !== '')) checkBoot(bytes, request);
    const machine = composeMachine({ config: complete, system, quirks, memory, devices }, undo);
    const { threads, board, fds } = machine;
    // The threads start while the image is read.
    const { format, placed, entryState } = loadImage(memory, request);
    await Promise.all(threads.map((thread) => thread.ready));
    await threads[0]?.call('applyBootState', entryState);
    const marks = new Marks();
    const consoles = connectConsoles(board, fds, complete, virtio.console, marks);
    const gdb = complete.gdb && {
      ...(await openGdb(complete.gdb, complete.onWarning ?? (() => undefined))),
      facilities: debugFacilities(system, quirks),
    };
    undo.push(() => gdb?.server.close());
    const sources = doctorSources(complete);
    const stall = complete.onStall && { afterMs: stallAfter(complete, quirks), onStall: complete.onStall };
    marks.set('created');
    const kernel = { format, cmdline: request.cmdline, placed };
    const { signal } = complete;
    const parts = { ...machine, kernel, quirkOptions, consoles, resize: virtio.console, marks, signal, fork };
    return new Vm({ ...parts, gdb, sources, stall });
  });
}

/** Loaded when it is used, as all of a restore is. */
const fork: VmParts['fork'] = async (...fromMachine) => {
  const { forkVm } = await import('./restore-vm.js');
  return forkVm(...fromMachine);
};

function sourceOf(file: string | { readonly name: string; readonly bytes: Uint8Array }): FileSource {
  return typeof file === 'string' ? { path: file } : file;
}

function doctorSources({ kernel, initrd, symbols }: CompleteConfig): DoctorSources {
  return {
    kernel: sourceOf(kernel),
    initrd: initrd === undefined ? undefined : { path: initrd },
    symbols: symbols === undefined ? undefined : { path: symbols },
  };
}

const STALL_MS = 10_000;

/** Where kernel code is emulated, a kernel clears its memory for as long as others boot. */
function stallAfter({ stallAfterMs }: CompleteConfig, quirks: readonly string[]): number {
  return stallAfterMs ?? (quirks.includes('kernel-emulated') ? 6 * STALL_MS : STALL_MS);
}

/** Loaded only where it is wanted. */
async function openGdb(
  config: GdbConfig,
  warn: (message: string) => void,
): Promise<{ readonly server: GdbServer; readonly holds: boolean }> {
  const { GdbServer } = await import('./gdb-server.js');
  return { server: await GdbServer.listen(config, warn), holds: config.wait === true };
}

function bootRequest(config: CompleteConfig, words: readonly string[] = []): BootRequest {
  const { kernel, initrd, entry, load, cpus, firmware } = config;
  const added = [...words, config.exec === undefined ? '' : 'microvisor.exec=ttyS1'];
  return {
    kernel: sourceOf(kernel),
    initrd: initrd === undefined ? undefined : { path: initrd },
    cmdline: withWords(config.cmdline, added),
    entry,
    load,
    cpus,
    firmware,
  };
}
