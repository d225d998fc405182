// Every virtio device of ours, for tests of what a hostile driver does "over every device": what makes it look at its queues, and
// what an honest driver asks of it afterwards.
import { ANSWER, REQUEST } from '../../src/devices/virtio/block-request.js';
import { VirtioBlock } from '../../src/devices/virtio/block.js';
import { VirtioConsole } from '../../src/devices/virtio/console.js';
import type { VirtioDevice } from '../../src/devices/virtio/device.js';
import { VirtioEntropy } from '../../src/devices/virtio/entropy.js';
import { NET_HEADER } from '../../src/devices/virtio/net-header.js';
import { NetDevice } from '../../src/devices/virtio/net.js';
import type { GuestMemory } from '../../src/memory/guest-memory.js';
import { MemoryDisk } from './block-rig.js';
import { frame, GUEST_MAC, KeepingBackend } from './net-rig.js';
import type { MockBuffer } from './virtqueue-driver.js';

/** What an honest driver asks for. */
export interface HonestUse {
  readonly queue: number;
  readonly buffers: readonly MockBuffer[];
  /** Of what the device did with it. */
  readonly hasWorked: () => boolean;
}

export interface Subject {
  readonly name: string;
  readonly device: VirtioDevice;
  /** The host has something for the guest: only then a device looks at the queues that it fills. */
  readonly prompt: () => void;
  /** Writes a request into the page at `data`. */
  readonly ask: (memory: GuestMemory, data: number) => HonestUse;
}

function disk(): Subject {
  const backend = new MemoryDisk(64 * 512);
  const sector = backend.bytes.slice(512, 1024);
  return {
    name: 'disk',
    device: new VirtioBlock({ name: 'disk', id: 'x', backend }),
    prompt: () => undefined,
    ask: (memory, data) => {
      memory.writeU32(data, REQUEST.IN);
      memory.writeU64(data + 8, 1n);
      memory.writeU8(data + 1024, 0xff);
      return {
        queue: 0,
        buffers: [
          { gpa: data, length: 16 },
          { gpa: data + 512, length: 512, writable: true },
          { gpa: data + 1024, length: 1, writable: true },
        ],
        hasWorked: () =>
          memory.readU8(data + 1024) === ANSWER.OK && Buffer.compare(memory.read(data + 512, 512), sector) === 0,
      };
    },
  };
}

function card(): Subject {
  const backend = new KeepingBackend();
  const device = new NetDevice({ name: 'card', mac: GUEST_MAC, backend });
  return {
    name: 'card',
    device,
    prompt: () => void backend.link?.receive(frame()),
    ask: (memory, data) => {
      backend.frames.length = 0;
      memory.fill(data, NET_HEADER);
      memory.write(data + NET_HEADER, frame(77));
      return {
        queue: 1,
        buffers: [{ gpa: data, length: NET_HEADER + 77 }],
        hasWorked: () => backend.frames.length === 1 && backend.frames[0]?.length === 77,
      };
    },
  };
}

function terminal(): Subject {
  const device = new VirtioConsole();
  let printed = '';
  device.onOutput((bytes) => (printed += Buffer.from(bytes).toString('latin1')));
  return {
    name: 'console',
    device,
    prompt: () => void device.write(Uint8Array.of(0x2e)),
    ask: (memory, data) => {
      printed = '';
      memory.write(data, Buffer.from('hello'));
      return { queue: 1, buffers: [{ gpa: data, length: 5 }], hasWorked: () => printed === 'hello' };
    },
  };
}

function entropy(): Subject {
  return {
    name: 'entropy',
    device: new VirtioEntropy({ fill: (bytes) => bytes.fill(7), close: () => undefined }),
    prompt: () => undefined,
    ask: (memory, data) => {
      memory.fill(data, 64);
      return {
        queue: 0,
        buffers: [{ gpa: data, length: 64, writable: true }],
        hasWorked: () => memory.read(data, 64).every((byte) => byte === 7),
      };
    },
  };
}

export const SUBJECTS: readonly (readonly [name: string, make: () => Subject, queues: number])[] = [
  ['a disk', disk, 1],
  ['a network card', card, 2],
  ['a console', terminal, 2],
  ['an entropy source', entropy, 1],
];

/** A subject that is ready for a machine. */
export async function openSubject(make: () => Subject): Promise<Subject> {
  const subject = make();
  if (subject.device instanceof NetDevice) await subject.device.open();
  return subject;
}
