// A guest that does what a script in its memory says, one access after the other: hostile drivers of a few lines.
// Intel SDM vol. 2; 32-bit protected mode, flat. In the end it spins, so that its memory can be looked at.
import { VIRTIO_MMIO_BASE, VIRTIO_MMIO_STRIDE } from '../../src/memory/layout.js';
import type { GuestMemory } from '../../src/memory/guest-memory.js';
import type { VirtioOffer } from '../../src/devices/virtio/device.js';
import { offeredFeatures } from '../../src/devices/virtio/mmio-state.js';
import { u32 } from '../support/images.js';
import { REG, type DriverHands } from '../support/virtqueue-driver.js';

export const LOAD = 0x4_0000;
const SCRIPT = 0x20_0000;
const SCRIPT_BYTES = 0x10_0000;
const LOG = 0x30_0000;
const END = 0x1f_fffc;
/** RAM that the script and its log need, in MiB. */
export const MEMORY_MIB = 4;

/** Each handler has 16 bytes; ebx is the address, ecx the value. */
const HANDLERS = [
  ['park', [0x89, 0x0b, 0xf3, 0x90, 0xeb, 0xfc]], // mov %ecx,(%ebx); pause; jmp to pause
  ['write32', [0x89, 0x0b]], // mov %ecx,(%ebx)
  ['write16', [0x66, 0x89, 0x0b]], // mov %cx,(%ebx)
  ['write8', [0x88, 0x0b]], // mov %cl,(%ebx)
  ['read32', [0x8b, 0x03, 0xab]], // mov (%ebx),%eax; stos %eax,(%edi)
  ['read16', [0x0f, 0xb7, 0x03, 0xab]], // movzwl (%ebx),%eax; stos
  ['read8', [0x0f, 0xb6, 0x03, 0xab]], // movzbl (%ebx),%eax; stos
  // A register does not answer to 16 bits: this waits for memory.
  ['wait16', [0x66, 0x39, 0x0b, 0x75, 0xfb]], // cmp %cx,(%ebx); jne to cmp
  ['waitBits', [0x85, 0x0b, 0x74, 0xfc]], // test %ecx,(%ebx); jz to test
  ['hold', [0x89, 0xca]], // mov %ecx,%edx
  ['repeat', [0x89, 0x13, 0xe2, 0xfc]], // mov %edx,(%ebx); loop to mov
  ['add32', [0x01, 0x0b]], // add %ecx,(%ebx)
  ['add16', [0x66, 0x01, 0x0b]], // add %cx,(%ebx)
  ['waitSame', [0x66, 0x8b, 0x01, 0x66, 0x39, 0x03, 0x75, 0xfb]], // mov (%ecx),%ax; cmp %ax,(%ebx); jne to cmp
  ['again', [0xff, 0x0b, 0x74, 0x02, 0x89, 0xce]], // decl (%ebx); jz over; mov %ecx,%esi
] as const satisfies readonly (readonly [string, readonly number[]])[];

type Operation = (typeof HANDLERS)[number][0];

const LOOP = 10;
const TABLE = 0x40;

/** The interpreter, to be loaded and started at LOAD. */
export function interpreter(): Uint8Array {
  const image = new Uint8Array(TABLE + 16 * HANDLERS.length);
  const code = [
    [0xbe, ...u32(SCRIPT), 0xbf, ...u32(LOG)], // mov $SCRIPT,%esi; mov $LOG,%edi
    [0xad, 0x8b, 0x1e, 0x8b, 0x4e, 0x04, 0x83, 0xc6, 0x08], // LOOP: lods; mov (%esi),%ebx; mov 4(%esi),%ecx; add $8
    [0xc1, 0xe0, 0x04, 0x05, ...u32(LOAD + TABLE), 0xff, 0xe0], // shl $4,%eax; add $TABLE,%eax; jmp *%eax
  ];
  image.set(code.flat());
  for (const [i, [, bytes]] of HANDLERS.entries()) {
    const at = TABLE + 16 * i;
    image.set(bytes, at);
    // jmp LOOP
    image.set([0xe9, ...u32(LOOP - (at + bytes.length + 5))], at + bytes.length);
  }
  return image;
}

/** Writes a script into a guest's memory, before the guest starts. */
export class Script {
  readonly #memory: GuestMemory;
  #at = SCRIPT;
  #reads = 0;

  constructor(memory: GuestMemory) {
    this.#memory = memory;
  }

  /** @param address of guest-physical memory, below 4 GiB */
  add(operation: Operation, address: number, value = 0): void {
    if (this.#at + 12 > SCRIPT + SCRIPT_BYTES) throw new RangeError('the script is too long');
    const index = HANDLERS.findIndex(([name]) => name === operation);
    for (const word of [index, address, value]) {
      this.#memory.writeU32(this.#at, word >>> 0);
      this.#at += 4;
    }
  }

  /** @returns what the log will show when the guest has done it */
  read(address: number, size: 1 | 2 | 4 = 4): () => number {
    this.add(({ 1: 'read8', 2: 'read16', 4: 'read32' } as const)[size], address);
    const at = LOG + 4 * this.#reads++;
    return () => this.#memory.readU32(at);
  }

  /** `count` times the same 32-bit write. */
  repeat(address: number, value: number, count: number): void {
    this.add('hold', 0, value);
    this.add('repeat', address, count);
  }

  /** @param esi of the guest, which points behind the step that it is at */
  stepAt(esi: number): string {
    const [index = 0, address, value] = [12, 8, 4].map((back) => this.#memory.readU32(esi - back));
    const number = (esi - SCRIPT) / 12;
    return `step ${number} (${HANDLERS[index]?.[0]} 0x${address?.toString(16)} ${value})`;
  }

  /** Does what `steps` adds so many times. Not for reads: the log has one place for each. */
  loop(count: number, counter: number, steps: () => void): void {
    this.#memory.writeU32(counter, count);
    const first = this.#at;
    steps();
    this.add('again', counter, first);
  }

  /** Ends the script. @returns whether the guest has come to it */
  end(): () => boolean {
    this.add('park', END, 1);
    return () => this.#memory.readU32(END) === 1;
  }

  /** The driver's hands on device `slot`, that write down what they are told. */
  hands(slot: number, offer: VirtioOffer): DriverHands & { readonly base: number } {
    const base = VIRTIO_MMIO_BASE + slot * VIRTIO_MMIO_STRIDE;
    let half = 0;
    return {
      base,
      memory: this.#memory,
      // Only the features are needed while the script is written.
      read: (register) => {
        this.add('read32', base + register);
        this.#reads++;
        return register === REG.DeviceFeatures ? (offeredFeatures(offer)[half] ?? 0) : 0;
      },
      write: (register, value, size = 4) => {
        if (register === REG.DeviceFeaturesSel) half = value;
        this.add(({ 1: 'write8', 2: 'write16', 4: 'write32' } as const)[size as 1 | 2 | 4], base + register, value);
      },
    };
  }
}
