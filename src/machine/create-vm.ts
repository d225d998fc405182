// Puts a machine together from its configuration: checks, VM, memory, devices, vCPU threads, and the loaded image.
// The only place that knows all parts. KVM API 4.2, 4.24, 4.35, 4.36, 4.40, 4.71 in the order that KVM wants.
import { checkBoot, loadImage } from '../boot/load-image.js';
import type { FileSource } from '../boot/image-file.js';
import type { BootRequest } from '../boot/request.js';
import { randomBytes } from '../devices/backend/random-source.js';
import type { VirtioDevice } from '../devices/virtio/device.js';
import { MmioBack } from '../devices/virtio/mmio-back.js';
import { QUEUE_NOTIFY } from '../devices/virtio/mmio-front.js';
import { limitWarnings } from '../devices/warning.js';
import { readSymbols } from '../boot/symbols.js';
import { EventFdIrqLine } from '../devices/irq-line.js';
import { KVM_PIT_SPEAKER_DUMMY } from '../kvm/abi.js';
import { advise } from '../kvm/host-memory.js';
import { System } from '../kvm/system.js';
import type { VmFd } from '../kvm/vm-fd.js';
import { GuestMemory } from '../memory/guest-memory.js';
import { KVM_IDENTITY_MAP, KVM_TSS, PORT, ramRanges, VIRTIO_MMIO_STRIDE } from '../memory/layout.js';
import { allocateAssistCounters } from '../vcpu/assist/assist.js';
import { kernelOptions, presentQuirks } from '../vcpu/assist/probe.js';
import { armSyscallRemedy } from '../vcpu/assist/syscall-remedy.js';
import { ExitStatistics } from '../vcpu/observe/statistics.js';
import { allocateTrace } from '../vcpu/observe/trace.js';
import { LOCK_WORDS } from '../vcpu/worker-protocol.js';
import { closeBoardFds, createBoard, createBoardFds, legacyDevices, type Board, type BoardFds } from './board.js';
import { completeConfig, type CompleteConfig, type VmConfig } from './config.js';
import { connectConsoles, serialOverflow } from './consoles.js';
import { debugFacilities, hostQuirks } from './host-quirks.js';
import type { DoctorSources } from './doctor/examine.js';
import type { GdbConfig, GdbServer } from './gdb-server.js';
import { Marks } from './marks.js';
import { checkInterrupts, loadUserDevices } from './user-devices.js';
import { VcpuThread } from './vcpu-thread.js';
import { createVirtioDevices } from './virtio-devices.js';
import { assignSlots, controlBell, deviceWords, queueBell, type VirtioSlot } from './virtio-slots.js';
import { Vm } from './vm.js';

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

  // What exists so far, to be undone in reverse when a later step fails.
  const undo: (() => void | Promise<unknown>)[] = [];
  try {
    const memory = GuestMemory.create(bytes);
    adviseMemory(memory, complete);
    const virtio = await createVirtioDevices(complete, memory);
    const ofVirtio: { close(): void | Promise<void> }[] = [...virtio.devices];
    undo.push(() => Promise.all(ofVirtio.map(async (part) => part.close())));
    const slots = assignSlots(
      virtio.devices.map(({ offer }) => offer),
      complete.firmware,
    );
    checkInterrupts(
      user,
      slots.map(({ offer: { name }, gsi }) => ({ name, gsi })),
    );
    const words = [complete.appendQuirkOptions ? quirkOptions : '', ...deviceWords(slots, complete.firmware)];
    const devices = slots.map(({ base, gsi }) => ({ base, size: VIRTIO_MMIO_STRIDE, gsi }));
    const request = { ...bootRequest(complete, words), devices, rngSeed: randomBytes(RNG_SEED_BYTES) };
    // What was added may have made the command line too long.
    if (words.some((word) => word !== '')) checkBoot(bytes, request);
    const kvm = createKvmVm(system, memory);
    undo.push(() => kvm.close());
    if (quirks.includes('syscall')) armSyscallRemedy(kvm);
    const legacy = legacyDevices(bytes, serialOverflow(complete));
    const boardPlan = { legacy, virtio: slots, user, cpus: complete.cpus, ram: ramRanges(bytes) };
    const fds = createBoardFds(boardPlan);
    undo.push(() => closeBoardFds(fds));
    const { board, data } = createBoard(boardPlan, fds);
    for (const [gsi, eventfd] of fds.irq) kvm.irqfd({ eventfd, gsi });
    let onFailure: (message: string) => void = () => undefined;
    const deviceFailure = new Promise<string>((resolve) => (onFailure = resolve));
    const backs = connectVirtio(virtio.devices, slots, { kvm, memory, board, fds, warn: warner(complete), onFailure });
    ofVirtio.splice(0, ofVirtio.length, ...backs);
    // Nobody waits for a POST code: Linux writes there only to pass the time.
    kvm.registerCoalescedMmio({ address: PORT.POST_CODE, size: 1, pio: true });

    const statistics = each(complete.cpus, () => new ExitStatistics(ExitStatistics.allocate()));
    const assists = each(complete.cpus, () => allocateAssistCounters());
    const traces = each(complete.cpus, () => traceRing(complete));
    const shared = {
      cpus: complete.cpus,
      supportedCpuid: system.supportedCpuid(),
      quirks,
      locks: new SharedArrayBuffer(LOCK_WORDS * 4),
      vmFd: kvm.fd,
      memory: memory.share(),
      boardModule: new URL('../machine/board.js', import.meta.url).href,
      board: data,
    };
    const threads = statistics.map(
      ({ buffer }, index) =>
        new VcpuThread({
          ...shared,
          index,
          statistics: buffer,
          assists: assists[index] as SharedArrayBuffer,
          trace: traces[index],
        }),
    );
    undo.push(() => Promise.all(threads.map((thread) => thread.discard())));
    // The threads start while the image is read.
    const plan = loadImage(memory, request);
    await Promise.all(threads.map((thread) => thread.ready));
    await threads[0]?.call('applyBootState', plan.entryState);
    const marks = new Marks();
    const consoles = connectConsoles(board, fds, complete, virtio.console, marks);
    const gdb = complete.gdb && {
      ...(await openGdb(complete.gdb, warner(complete))),
      facilities: debugFacilities(system, quirks),
    };
    undo.push(() => gdb?.server.close());
    const sources = doctorSources(complete);
    const stall = complete.onStall && { afterMs: stallAfter(complete, quirks), onStall: complete.onStall };
    marks.set('created');
    const { cmdline } = request;
    const { signal } = complete;
    const parts = { kvm, memory, plan, cmdline, quirks, quirkOptions, board, fds, threads, statistics, assists, marks };
    return new Vm({
      ...parts,
      traces,
      consoles,
      resize: virtio.console,
      backs,
      deviceFailure,
      user,
      gdb,
      sources,
      stall,
      signal,
    });
  } catch (error) {
    for (const step of undo.toReversed()) await step();
    throw error;
  }
}

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

function traceRing({ trace }: CompleteConfig): SharedArrayBuffer | undefined {
  if (trace === false) return undefined;
  return trace === true ? allocateTrace() : allocateTrace(trace);
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

/** Adds words to a kernel command line, before ` -- `: what follows that belongs to init. */
function withWords(cmdline: string, words: readonly string[]): string {
  const at = ` ${cmdline} `.indexOf(' -- ');
  const [kernel, init] = at < 0 ? [cmdline, ''] : [cmdline.slice(0, at).trimEnd(), cmdline.slice(at)];
  return [kernel, ...words, init].filter((word) => word !== '').join(' ');
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
