// Packets of the GDB remote serial protocol: bytes of a stream to packets, and replies to bytes. Pure and bounded.
// GDB manual, appendix "Remote Serial Protocol": Overview, Packet Acknowledgment, Interrupts.

/** Characters of a packet's data at most, as `qSupported` announces it; 4 KiB of memory fit in as hexadecimal digits. */
export const PACKET_MAX = 0x2400;

export type GdbInput =
  /** The packet's data, escapes undone: one character a byte. */
  | { readonly kind: 'packet'; readonly data: string }
  /** Its checksum is wrong, or it is longer than PACKET_MAX. */
  | { readonly kind: 'corrupt' }
  | { readonly kind: 'acknowledged' }
  | { readonly kind: 'not-acknowledged' }
  /** Byte 0x03 between packets. */
  | { readonly kind: 'interrupt' }
  /** A byte that no debugger sends there: the peer speaks another protocol. */
  | { readonly kind: 'foreign' };

const START = 0x24; // $
const END = 0x23; // #
const ESCAPE = 0x7d; // }
const RUN_LENGTH = 0x2a; // *
const ESCAPED_BIT = 0x20;

/** What a byte between packets means. */
const BETWEEN: Readonly<Record<number, GdbInput>> = {
  0x03: { kind: 'interrupt' },
  0x2b: { kind: 'acknowledged' },
  0x2d: { kind: 'not-acknowledged' },
};

export class PacketReader {
  #state: 'between' | 'data' | 'first-digit' | 'second-digit' = 'between';
  #data: number[] = [];
  #sum = 0;
  #isTooLong = false;
  #isEscaped = false;
  #firstDigit = 0;

  /** What `bytes` complete, in order; a packet may come in any number of pieces. */
  push(bytes: Uint8Array): GdbInput[] {
    const inputs: GdbInput[] = [];
    for (const byte of bytes) {
      const input = this.#take(byte);
      if (input !== undefined) inputs.push(input);
    }
    return inputs;
  }

  #take(byte: number): GdbInput | undefined {
    switch (this.#state) {
      case 'between':
        if (byte !== START) return BETWEEN[byte] ?? { kind: 'foreign' };
        this.#state = 'data';
        this.#data = [];
        this.#sum = 0;
        this.#isTooLong = false;
        this.#isEscaped = false;
        return undefined;
      case 'data':
        if (byte === END) this.#state = 'first-digit';
        else this.#store(byte);
        return undefined;
      case 'first-digit':
        this.#firstDigit = digit(byte);
        this.#state = 'second-digit';
        return undefined;
      case 'second-digit':
        this.#state = 'between';
        return this.#complete(this.#firstDigit * 16 + digit(byte));
    }
  }

  #store(byte: number): void {
    this.#sum = (this.#sum + byte) & 0xff;
    if (byte === ESCAPE && !this.#isEscaped) this.#isEscaped = true;
    else {
      if (this.#data.length < PACKET_MAX) this.#data.push(this.#isEscaped ? byte ^ ESCAPED_BIT : byte);
      else this.#isTooLong = true;
      this.#isEscaped = false;
    }
  }

  #complete(checksum: number): GdbInput {
    if (checksum !== this.#sum || this.#isTooLong) return { kind: 'corrupt' };
    return { kind: 'packet', data: Buffer.from(this.#data).toString('latin1') };
  }
}

/** A reply on the wire. @param data one character a byte */
export function frame(data: string): Buffer {
  const bytes = [START];
  let sum = 0;
  const put = (byte: number): void => {
    bytes.push(byte);
    sum = (sum + byte) & 0xff;
  };
  for (const byte of Buffer.from(data, 'latin1')) {
    if (byte === START || byte === END || byte === ESCAPE || byte === RUN_LENGTH) {
      put(ESCAPE);
      put(byte ^ ESCAPED_BIT);
    } else put(byte);
  }
  bytes.push(END);
  return Buffer.concat([Buffer.from(bytes), Buffer.from(sum.toString(16).padStart(2, '0'))]);
}

/** NaN, which equals no checksum, for what is no hexadecimal digit. */
function digit(byte: number): number {
  const text = String.fromCharCode(byte);
  return /^[0-9a-f]$/i.test(text) ? Number.parseInt(text, 16) : NaN;
}
