// The registers of a virtio-mmio device, version 2, served on whichever vCPU thread touches them.
// VIRTIO 1.2 §4.2.2, Table 4.1 (names and offsets); §2.2 (feature negotiation); state lies in MmioState and nowhere else.
import type { IoHandler } from '../bus.js';
import type { Signal } from '../irq-line.js';
import type { OwnerWait } from '../owner-wait.js';
import type { Field } from '../register-file.js';
import { RegisterTable, type RegisterHandler, type RegisterInfo, type RegisterRow } from '../register-table.js';
import { FEATURE, STATUS } from './abi.js';
import type { VirtioOffer } from './device.js';
import { nextStatus } from './mmio-status.js';
import { offeredFeatures, resetFields, type MmioState, type QueueFields } from './mmio-state.js';
import { layoutProblem, type QueueLayout } from './queue.js';

/** Length of the window in bytes: registers, then the configuration space. */
export const MMIO_BYTES = 0x1000;
/** Offset of QueueNotify; the machine binds an ioeventfd to it. */
export const QUEUE_NOTIFY = 0x050;
const CONFIG = 0x100;

const MAGIC = 0x7472_6976;
const VERSION = 2;
/** 'MVSR' in the order of ASCII letters in memory. */
const VENDOR_ID = 0x5253_564d;
/** §4.2.2: a shared memory region that does not exist has this length (in each half), and this base. */
const NO_REGION = 0xffff_ffff;

export interface MmioFrontParts {
  /** Wakes the back: activation, or a request in REQUESTS. */
  readonly control: Signal;
  /** By queue: its doorbell, for kicks that do not come through the ioeventfd. */
  readonly doorbells: readonly Signal[];
  readonly wait: OwnerWait;
  /** Whether a range is guest RAM. */
  readonly memory: { contains(gpa: number, length: number): boolean };
}

/** One device's front. Widths other than 32 bits (the configuration space has all) read as 0 and are not written. */
export class MmioFront implements RegisterHandler {
  readonly name: string;
  readonly registers: readonly RegisterInfo[];
  readonly #table: RegisterTable;
  readonly #config: IoHandler;

  constructor(offer: VirtioOffer, state: MmioState, parts: MmioFrontParts) {
    this.name = offer.name;
    this.#table = new RegisterTable(offer.name, registerRows(offer, state, parts));
    this.registers = this.#table.registers;
    this.#config = configSpace(offer.name, state);
  }

  // §4.2.2.2: "The driver MUST only use 32 bit wide and aligned reads and writes to access the control registers".
  read(offset: number, size: number): number {
    if (offset >= CONFIG) return this.#config.read(offset - CONFIG, size);
    if (size !== 4 || (offset & 3) !== 0 || this.#table.registerName(offset, false) === undefined) return 0;
    return this.#table.read(offset, 4);
  }

  write(offset: number, size: number, value: number): void {
    if (offset < CONFIG && size === 4 && (offset & 3) === 0) this.#table.write(offset, 4, value);
  }

  registerName(offset: number, isWrite: boolean): string | undefined {
    return offset < CONFIG ? this.#table.registerName(offset, isWrite) : 'Config';
  }
}

function registerRows(offer: VirtioOffer, state: MmioState, parts: MmioFrontParts): readonly RegisterRow[] {
  const { fields, queues } = state;
  const offered = offeredFeatures(offer);
  const { Status, QueueSel, DeviceFeaturesSel, DriverFeaturesSel, DriverFeaturesLow, DriverFeaturesHigh } = fields;
  const selected = (): QueueFields | undefined => queues[QueueSel.get()];
  const isNegotiating = (): boolean =>
    (Status.get() & (STATUS.DRIVER | STATUS.FEATURES_OK | STATUS.FAILED)) === STATUS.DRIVER;
  const areFeaturesValid = (): boolean => {
    const high = DriverFeaturesHigh.get();
    const extra = (DriverFeaturesLow.get() & ~offered[0]) | (high & ~offered[1]);
    // "the device MAY fail to operate further if VIRTIO_F_VERSION_1 is not accepted" (§6.2): there is no legacy here.
    return extra === 0 && (high & (1 << (FEATURE.VERSION_1 - 32))) !== 0;
  };

  const constant = (offset: number, name: string, value: number): RegisterRow => ({
    offset,
    name,
    size: 4,
    read: () => value,
  });
  const latch = (offset: number, name: string, field: Field): RegisterRow => ({
    offset,
    name,
    size: 4,
    write: (value) => field.set(value),
  });
  // §4.2.2.2: "The driver MUST NOT write" queue registers of a queue that is ready.
  const ofQueue = (offset: number, name: keyof QueueFields): RegisterRow => ({
    offset,
    name,
    size: 4,
    write: (value) => {
      const queue = selected();
      if (queue !== undefined && isSettingUp(Status.get()) && queue.QueueReady.get() === 0) queue[name].set(value);
    },
  });
  const exchange = (): void => askBack(state, parts);

  return [
    constant(0x000, 'MagicValue', MAGIC),
    constant(0x004, 'Version', VERSION),
    constant(0x008, 'DeviceID', offer.deviceId),
    constant(0x00c, 'VendorID', VENDOR_ID),
    { offset: 0x010, name: 'DeviceFeatures', size: 4, read: () => offered[DeviceFeaturesSel.get()] ?? 0 },
    latch(0x014, 'DeviceFeaturesSel', DeviceFeaturesSel),
    {
      offset: 0x020,
      name: 'DriverFeatures',
      size: 4,
      write: (value) => {
        const field = [DriverFeaturesLow, DriverFeaturesHigh][DriverFeaturesSel.get()];
        if (isNegotiating()) field?.set(value);
      },
    },
    latch(0x024, 'DriverFeaturesSel', DriverFeaturesSel),
    latch(0x030, 'QueueSel', QueueSel),
    { offset: 0x034, name: 'QueueNumMax', size: 4, read: () => offer.queueSizes[QueueSel.get()] ?? 0 },
    ofQueue(0x038, 'QueueNum'),
    {
      offset: 0x044,
      name: 'QueueReady',
      size: 4,
      read: () => selected()?.QueueReady.get() ?? 0,
      write: (value) => {
        const queue = selected();
        if (queue === undefined) return;
        if (value === 1 && isSettingUp(Status.get())) {
          const layout = queueLayout(queue, offer.queueSizes[QueueSel.get()] ?? 0);
          if (layout !== undefined && layoutProblem(parts.memory, layout) === undefined) queue.QueueReady.set(1);
        } else if (value === 0 && queue.QueueReady.exchange(0) === 1 && isActive(Status.get())) exchange();
      },
    },
    { offset: QUEUE_NOTIFY, name: 'QueueNotify', size: 4, write: (queue) => parts.doorbells[queue]?.signal() },
    { offset: 0x060, name: 'InterruptStatus', size: 4, read: () => fields.InterruptStatus.get() },
    // Partner: the back ors a bit in and then pulses; a bit that comes between read and acknowledge stays.
    { offset: 0x064, name: 'InterruptACK', size: 4, write: (bits) => void fields.InterruptStatus.and(~bits) },
    {
      offset: 0x070,
      name: 'Status',
      size: 4,
      read: () => Status.get(),
      write: (value) => {
        if ((value & 0xff) === 0) {
          reset(state, parts);
          return;
        }
        for (;;) {
          const current = Status.get();
          const next = nextStatus(current, value & 0xff, areFeaturesValid);
          if (next === current) return;
          if (Status.compareExchange(current, next) !== current) continue;
          if (isActive(next) && !isActive(current)) parts.control.signal();
          return;
        }
      },
    },
    ofQueue(0x080, 'QueueDescLow'),
    ofQueue(0x084, 'QueueDescHigh'),
    ofQueue(0x090, 'QueueDriverLow'),
    ofQueue(0x094, 'QueueDriverHigh'),
    ofQueue(0x0a0, 'QueueDeviceLow'),
    ofQueue(0x0a4, 'QueueDeviceHigh'),
    { offset: 0x0ac, name: 'SHMSel', size: 4, write: () => undefined },
    constant(0x0b0, 'SHMLenLow', NO_REGION),
    constant(0x0b4, 'SHMLenHigh', NO_REGION),
    constant(0x0b8, 'SHMBaseLow', NO_REGION),
    constant(0x0bc, 'SHMBaseHigh', NO_REGION),
    { offset: 0x0fc, name: 'ConfigGeneration', size: 4, read: () => fields.ConfigGeneration.get() },
  ];
}

function reset(state: MmioState, parts: MmioFrontParts): void {
  const { Status, RESET } = state.fields;
  for (;;) {
    const current = Status.get();
    if (isActive(current)) {
      RESET.set(1);
      askBack(state, parts);
      return;
    }
    // Only an activated back can be touching guest memory, and Linux resets every device that it finds.
    // Partner: a DRIVER_OK of another vCPU, which activates it.
    if (Status.compareExchange(current, 0) !== current) continue;
    resetFields(state);
    return;
  }
}

/** Between FEATURES_OK and DRIVER_OK (VIRTIO 1.2 §3.1.1, steps 6 to 8). */
function isSettingUp(status: number): boolean {
  return (status & (STATUS.FEATURES_OK | STATUS.DRIVER_OK | STATUS.FAILED)) === STATUS.FEATURES_OK;
}

export function isActive(status: number): boolean {
  return (status & STATUS.DRIVER_OK) !== 0;
}

/** A queue as the driver described it; undefined when its size cannot be. */
export function queueLayout(queue: QueueFields, queueNumMax: number): QueueLayout | undefined {
  const address = (low: Field, high: Field): number => high.get() * 2 ** 32 + low.get();
  const size = queue.QueueNum.get();
  if (size > queueNumMax) return undefined;
  return {
    size,
    desc: address(queue.QueueDescLow, queue.QueueDescHigh),
    driver: address(queue.QueueDriverLow, queue.QueueDriverHigh),
    device: address(queue.QueueDeviceLow, queue.QueueDeviceHigh),
  };
}

/** Waits until the back has seen what was stored: Linux frees its rings right after such a write. */
function askBack({ fields: { REQUESTS, ANSWERS } }: MmioState, { control, wait }: MmioFrontParts): void {
  const request = (REQUESTS.add(1) + 1) | 0;
  control.signal();
  for (;;) {
    const answered = ANSWERS.get();
    if (((answered - request) | 0) >= 0) return;
    // False: the machine ends, and nobody will answer any more.
    if (!wait.until(ANSWERS.words, ANSWERS.index, answered | 0)) return;
  }
}

function configSpace(name: string, { config, fields: { ConfigGeneration } }: MmioState): IoHandler {
  return {
    name,
    // Byte by byte: fields of the configuration space have their own widths, and any access within it is one of them.
    read: (offset, size) => {
      // Partner: the back completes the other copy, then counts up.
      const valid = config[(ConfigGeneration.get() & 1) as 0 | 1];
      let value = 0;
      for (let i = 0; i < size; i++) value |= (valid[offset + i] ?? 0) << (8 * i);
      return value >>> 0;
    },
    write: () => undefined,
  };
}
