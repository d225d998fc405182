// A virtio console with a driver that the test plays: prints, gives buffers for input, and keeps what came out.
// VIRTIO 1.2 §5.3.6 (device operation).
import { VirtioConsole } from '../../src/devices/virtio/console.js';
import { MockMachine, type MockBuffer, type MockQueue } from './virtqueue-driver.js';

/** Where the rig's buffers lie in guest RAM. */
const TRANSMIT_AT = 0x40_0000;
const TRANSMIT_BYTES = 8 << 20;
const RECEIVE_AT = 0xc0_0000;

export class ConsoleRig {
  readonly machine: MockMachine;
  readonly receiving: MockQueue;
  readonly transmitting: MockQueue;
  /** What came out, an event each. */
  readonly pieces: Uint8Array[] = [];
  #transmitAt = TRANSMIT_AT;
  #receiveAt = RECEIVE_AT;
  readonly #buffers = new Map<number, { readonly gpa: number; readonly length: number }>();

  private constructor(
    readonly device: VirtioConsole,
    machine: MockMachine,
    queues: MockQueue[],
  ) {
    this.machine = machine;
    [this.receiving, this.transmitting] = queues as [MockQueue, MockQueue];
  }

  /** @param collects false when the test takes the output itself */
  static async start({ without = [] as readonly number[], collects = true } = {}): Promise<ConsoleRig> {
    const device = new VirtioConsole({ columns: 80, rows: 25 });
    const machine = new MockMachine(device);
    const rig = new ConsoleRig(device, machine, await machine.start(without));
    if (collects) device.onOutput((bytes) => void rig.pieces.push(bytes));
    return rig;
  }

  get output(): Buffer {
    return Buffer.concat(this.pieces);
  }

  /** Publishes one chain with these bytes, in buffers of the given lengths and one for the rest. */
  print(bytes: Uint8Array | string, lengths: readonly number[] = [], kicks = true): number {
    const data = Buffer.from(bytes);
    if (this.#transmitAt + data.length > TRANSMIT_AT + TRANSMIT_BYTES) this.#transmitAt = TRANSMIT_AT;
    const gpa = this.#transmitAt;
    this.#transmitAt += data.length;
    this.machine.memory.write(gpa, data);
    const buffers: MockBuffer[] = [];
    let at = 0;
    for (const length of [...lengths, data.length]) {
      const count = Math.min(length, data.length - at);
      if (count > 0) buffers.push({ gpa: gpa + at, length: count });
      at += count;
    }
    const head = this.transmitting.build(buffers);
    this.transmitting.publish(head);
    if (kicks) this.transmitting.kick();
    return head;
  }

  /** Takes back what was printed. @returns the used lengths */
  takePrinted(): number[] {
    const lengths: number[] = [];
    for (let used = this.transmitting.takeUsed(); used !== undefined; used = this.transmitting.takeUsed())
      lengths.push(used.length);
    return lengths;
  }

  /** Gives one buffer for input. */
  offer(length: number): void {
    const gpa = this.#receiveAt;
    this.#receiveAt = gpa + length > RECEIVE_AT + (3 << 20) ? RECEIVE_AT : gpa + length;
    const head = this.receiving.add([{ gpa, length, writable: true }]);
    this.#buffers.set(head, { gpa, length });
  }

  /** Takes the input that has come, a buffer each. */
  takeInput(): Buffer[] {
    const inputs: Buffer[] = [];
    for (let used = this.receiving.takeUsed(); used !== undefined; used = this.receiving.takeUsed()) {
      const { gpa } = this.#buffers.get(used.id) as { gpa: number };
      inputs.push(Buffer.from(this.machine.memory.read(gpa, used.length)));
    }
    return inputs;
  }

  settle(): Promise<void> {
    return this.machine.settle();
  }

  close(): Promise<void> {
    return this.machine.close();
  }
}
