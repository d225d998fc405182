// A network card with a driver that the test plays: frames in and out by name, and a backend that keeps what it gets.
// VIRTIO 1.2 §5.1.6 (device operation).
import type { NetBackend, NetLink, Offloads } from '../../src/devices/backend/net-backend.js';
import { NetDevice, type NetOptions } from '../../src/devices/virtio/net.js';
import { NET_HEADER } from '../../src/devices/virtio/net-header.js';
import { MockMachine, type MockQueue } from './virtqueue-driver.js';

export const GUEST_MAC = Uint8Array.of(0x52, 0x54, 0, 0, 0, 1);
const OTHER_MAC = Uint8Array.of(0x52, 0x54, 0, 0, 0, 2);

/** Where the rig's buffers lie in guest RAM. */
const TRANSMIT_AT = 0x40_0000;
const RECEIVE_AT = 0x80_0000;

export class KeepingBackend implements NetBackend {
  readonly frames: Uint8Array[] = [];
  link: NetLink | undefined;
  isFull = false;
  resumed = 0;
  closed = 0;
  declare mtu?: number;
  declare setOffloads?: (taken: Offloads) => void;

  open(link: NetLink): void {
    this.link = link;
  }

  send(frame: Uint8Array): boolean {
    if (this.isFull) return false;
    this.frames.push(frame.slice());
    return true;
  }

  resume(): void {
    this.resumed++;
  }

  close(): void {
    this.closed++;
  }
}

/** A frame of `length` bytes: addresses, an experimental type, and counted bytes. */
export function frame(
  length = 60,
  { to = OTHER_MAC, from = GUEST_MAC }: { readonly to?: Uint8Array; readonly from?: Uint8Array } = {},
): Uint8Array {
  const bytes = Uint8Array.from({ length }, (_, i) => i);
  bytes.set([...to, ...from, 0x88, 0xb5].slice(0, length));
  return bytes;
}

export class NetRig {
  readonly machine: MockMachine;
  readonly receiving: MockQueue;
  readonly transmitting: MockQueue;
  #transmitAt = TRANSMIT_AT;
  #receiveAt = RECEIVE_AT;
  readonly #buffers = new Map<number, { readonly gpa: number; readonly length: number }>();

  private constructor(
    readonly device: NetDevice,
    machine: MockMachine,
    queues: MockQueue[],
  ) {
    this.machine = machine;
    [this.receiving, this.transmitting] = queues as [MockQueue, MockQueue];
  }

  static async start(
    backend: NetBackend,
    { without = [], ...options }: Partial<NetOptions> & { readonly without?: readonly number[] } = {},
  ): Promise<NetRig> {
    const device = new NetDevice({ name: 'net0', mac: GUEST_MAC, backend, ...options });
    await device.open();
    const machine = new MockMachine(device);
    return new NetRig(device, machine, await machine.start(without));
  }

  counter(name: string): number | undefined {
    return this.machine.back.report().counters[name];
  }

  /** Sends bytes as they are, header and all, in buffers of these lengths (the last one takes the rest). */
  transmitRaw(bytes: Uint8Array, lengths: readonly number[] = []): number {
    const buffers: { gpa: number; length: number }[] = [];
    let at = 0;
    for (const length of [...lengths, bytes.length]) {
      const part = bytes.subarray(at, at + length);
      if (part.length === 0) continue;
      this.machine.memory.write(this.#transmitAt, part);
      buffers.push({ gpa: this.#transmitAt, length: part.length });
      this.#transmitAt += part.length + 3;
      at += part.length;
    }
    if (this.#transmitAt > RECEIVE_AT - 0x4_0000) this.#transmitAt = TRANSMIT_AT;
    return this.transmitting.add(buffers);
  }

  /** @param header what is not 0 of it, by offset */
  transmit(body: Uint8Array, header: Readonly<Record<number, number>> = {}, lengths: readonly number[] = []): number {
    const bytes = new Uint8Array(NET_HEADER + body.length);
    for (const [at, value] of Object.entries(header)) bytes[Number(at)] = value;
    bytes.set(body, NET_HEADER);
    return this.transmitRaw(bytes, lengths);
  }

  /** Gives the device a buffer for frames. */
  offer(length = 1600, writable = true): number {
    const gpa = this.#receiveAt;
    this.#receiveAt += length;
    if (this.#receiveAt > 0xf0_0000) this.#receiveAt = RECEIVE_AT;
    const head = this.receiving.add([{ gpa, length, writable }]);
    this.#buffers.set(head, { gpa, length });
    return head;
  }

  /** The next frame that came, put together from its buffers, or undefined. */
  takeFrame(): { readonly header: Uint8Array; readonly body: Uint8Array; readonly buffers: number } | undefined {
    const parts: Uint8Array[] = [];
    let wanted = 1;
    for (let n = 0; n < wanted; n++) {
      const used = this.receiving.takeUsed();
      if (used === undefined) return undefined;
      const part = this.machine.memory.read(this.#buffers.get(used.id)?.gpa ?? 0, used.length);
      parts.push(part);
      if (n === 0) wanted = part.length < NET_HEADER ? 1 : (part[10] as number) | ((part[11] as number) << 8);
    }
    const whole = Buffer.concat(parts);
    return { header: whole.subarray(0, NET_HEADER), body: whole.subarray(NET_HEADER), buffers: wanted };
  }

  settle(): Promise<void> {
    return this.machine.settle();
  }

  close(): Promise<void> {
    return this.machine.close();
  }
}
