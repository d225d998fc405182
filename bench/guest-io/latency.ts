// Doorbell to device callback, and irqfd to guest handler: how long each takes, by the guest's own clock.
// VIRTIO 1.2 §4.2.2 (QueueNotify), KVM API 4.59 and 4.75; the guest is latency.S, which keeps its TSC in memory.
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setImmediate as turn, setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { createVm, type GuestMemory } from '../../src/index.js';
import { DEVICE_ID, FEATURE, STATUS } from '../../src/devices/virtio/abi.js';
import type { DeviceHost, DeviceLink, VirtioDevice } from '../../src/devices/virtio/device.js';
import { IOAPIC_BASE, LAPIC_BASE, VIRTIO_GSIS, VIRTIO_MMIO_BASE } from '../../src/memory/layout.js';
import { describeQueue, DRIVING, REG, type DriverHands } from '../../test/support/virtqueue-driver.js';
import { percentile } from '../estimate.js';

/** As latency.S has them. */
const LOAD = 0x10_0000;
const AT = { clock: 0x20_0000, rang: 0x20_0008, handled: 0x20_0010, asked: 0x20_0018, interrupts: 0x20_001c } as const;
const PAUSE = 0x20_0020;
const TABLE = 0x20_1000;
const VECTOR = 0x40;
/** Where the queue lies, which stays empty. */
const RINGS = 0x30_0000;
const MEMORY_MIB = 4;
/** Before it rings the guest waits so long: the owner's thread sleeps by then, as it does between two requests. */
const PAUSE_MICROSECONDS = 200;

/** Microseconds. */
export interface Latency {
  readonly p50: number;
  readonly p99: number;
}

export interface Latencies {
  /** From the guest's store to QueueNotify to the first instruction of the device's `notify`. */
  readonly doorbell: Latency;
  /**
   * From the device's word to the first instruction of the guest's interrupt handler; the guest is awake. A KVM that
   * emulates kernel code looks for interrupts between batches of instructions: this is half a batch then.
   */
  readonly interrupt: Latency;
  /** A step of the guest's clock, p50: nothing is known better than that. */
  readonly resolution: number;
}

/** Hears its doorbell and interrupts; has no requests to serve. */
class Bell implements VirtioDevice {
  readonly offer = {
    name: 'bell',
    deviceId: DEVICE_ID.ENTROPY,
    features: [],
    queueSizes: [8],
    config: new Uint8Array(4),
  };
  onNotify: () => void = () => undefined;
  host: DeviceHost | undefined;

  attach(host: DeviceHost): void {
    this.host = host;
  }
  activate(_link: DeviceLink): void {}
  notify(): void {
    this.onNotify();
  }
  cancel(): void {}
  close(): void {}
}

/** @param samples of each of the two */
export async function measureLatencies(samples: number): Promise<Latencies> {
  const bell = new Bell();
  await using vm = await createVm({
    kernel: { name: 'latency guest', bytes: assemble() },
    entry: 'long',
    load: LOAD,
    cmdline: '',
    memoryMiB: MEMORY_MIB,
    virtio: [() => bell],
  });
  const { memory } = vm;
  writeTable(memory);
  const activated = new Promise<void>((resolve) => (bell.onNotify = resolve));
  await vm.start();
  await activated;
  const clock = await GuestClock.of(memory);
  memory.writeU64(PAUSE, BigInt(Math.round(PAUSE_MICROSECONDS * clock.cyclesPerMicrosecond)));
  const doorbell: number[] = [];
  const interrupt: number[] = [];
  for (let i = 1; i <= samples; i++) {
    const heard = new Promise<number>((resolve) => (bell.onNotify = () => resolve(now())));
    memory.writeU32(AT.asked, i);
    const called = await heard;
    await clock.set();
    doorbell.push(clock.at(called) - clock.stamp(AT.rang));
    const count = memory.readU32(AT.interrupts);
    const begun = now();
    bell.host?.setConfig(0, Uint8Array.of(i & 0xff));
    // Asleep, as the owner is after an answer: KVM may want the processor for the interrupt.
    while (memory.readU32(AT.interrupts) === count) await sleep(1);
    interrupt.push(clock.stamp(AT.handled) - clock.at(begun));
  }
  return { doorbell: latency(doorbell), interrupt: latency(interrupt), resolution: clock.step };
}

/** Microseconds of the host's clock. */
const now = (): number => performance.now() * 1000;

/** Steps of the guest's clock that are looked at to set ours by it, and how close they must follow each other. */
const STEPS = 20;
const STEP_MICROSECONDS = 50;

/** The guest's TSC, which it keeps in its memory, in microseconds of the host: set anew before each use. */
class GuestClock {
  readonly #memory: GuestMemory;
  readonly #steps: number[] = [];
  /** A value of the guest's clock, and when it was seen. */
  #cycles = 0;
  #seen = 0;

  private constructor(
    memory: GuestMemory,
    readonly cyclesPerMicrosecond: number,
  ) {
    this.#memory = memory;
  }

  static async of(memory: GuestMemory): Promise<GuestClock> {
    const look = new GuestClock(memory, 1);
    await look.set(Number.POSITIVE_INFINITY);
    const { cycles, seen } = { cycles: look.#cycles, seen: look.#seen };
    await sleep(500);
    await look.set(Number.POSITIVE_INFINITY);
    return new GuestClock(memory, (look.#cycles - cycles) / (look.#seen - seen));
  }

  /** Microseconds of a step, the middle one. */
  get step(): number {
    return latency(this.#steps).p50;
  }

  /**
   * Waits for steps in a row, which says that the guest has a processor. Whoever looks sees a step late, never early:
   * the one that was seen soonest is kept.
   */
  async set(longest = STEP_MICROSECONDS): Promise<void> {
    for (;;) {
      const steps = Array.from({ length: STEPS }, () => this.#look());
      const since = steps.slice(1).map(({ seen }, i) => seen - (steps[i]?.seen ?? 0));
      if (Math.max(...since) < longest) {
        const lead = ({ cycles, seen }: Step): number => cycles / this.cyclesPerMicrosecond - seen;
        const best = steps.reduce((a, b) => (lead(b) > lead(a) ? b : a));
        this.#cycles = best.cycles;
        this.#seen = best.seen;
        this.#steps.push(...since);
        return;
      }
      await turn();
    }
  }

  /** A stamp of the guest's, in microseconds since the clock was set. */
  stamp(gpa: number): number {
    return (Number(this.#memory.readU64(gpa)) - this.#cycles) / this.cyclesPerMicrosecond;
  }

  /** The host's time as one. */
  at(time: number): number {
    return time - this.#seen;
  }

  #look(): Step {
    const first = Number(this.#memory.readU64(AT.clock));
    for (;;) {
      const cycles = Number(this.#memory.readU64(AT.clock));
      if (cycles !== first) return { cycles, seen: now() };
    }
  }
}

interface Step {
  readonly cycles: number;
  readonly seen: number;
}

function latency(of: readonly number[]): Latency {
  const sorted = of.toSorted((a, b) => a - b);
  return { p50: percentile(sorted, 0.5), p99: percentile(sorted, 0.99) };
}

/** The driver's set-up, the way of the device's interrupt, and the local APIC: stores, in their order. */
function writeTable(memory: GuestMemory): void {
  let at = TABLE;
  const store = (address: number, value: number): void => {
    memory.writeU32(at, address);
    memory.writeU32(at + 4, value >>> 0);
    at += 8;
  };
  const hands: DriverHands = {
    memory,
    read: () => 0,
    write: (register, value) => store(VIRTIO_MMIO_BASE + register, value),
  };
  hands.write(REG.Status, STATUS.ACKNOWLEDGE | STATUS.DRIVER);
  hands.write(REG.DriverFeaturesSel, 1);
  hands.write(REG.DriverFeatures, 1 << (FEATURE.VERSION_1 - 32));
  hands.write(REG.Status, DRIVING & ~STATUS.DRIVER_OK);
  describeQueue(hands, 0, { size: 8, desc: RINGS, avail: RINGS + 0x1000, used: RINGS + 0x2000 });
  // IOAPIC: index, then data; edge-triggered, to the processor with APIC id 0. SDM vol. 3A §10.9 for the local one.
  const [gsi] = VIRTIO_GSIS;
  for (const [register, value] of [
    [0x10 + 2 * gsi, VECTOR],
    [0x11 + 2 * gsi, 0],
  ] as const) {
    store(IOAPIC_BASE, register);
    store(IOAPIC_BASE + 0x10, value);
  }
  store(LAPIC_BASE + 0xf0, 0x1ff);
  hands.write(REG.Status, DRIVING);
}

function assemble(): Uint8Array {
  const source = fileURLToPath(new URL('../../../bench/guest-io/latency.S', import.meta.url));
  const work = mkdtempSync(join(tmpdir(), 'microvisor-bench-'));
  try {
    const object = join(work, 'guest.o');
    const binary = join(work, 'guest.bin');
    execFileSync('as', ['--64', '-mx86-used-note=no', '-o', object, source]);
    const layout = ['--oformat', 'binary', `-Ttext=0x${LOAD.toString(16)}`, '-e', 'start'];
    execFileSync('ld', ['-m', 'elf_x86_64', ...layout, '-o', binary, object]);
    return readFileSync(binary);
  } finally {
    rmSync(work, { recursive: true });
  }
}
