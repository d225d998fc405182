// Framing of the GDB remote serial protocol, against bytes in any pieces and of any kind.
// GDB manual, appendix "Remote Serial Protocol", Overview.
import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { frame, PACKET_MAX, PacketReader, type GdbInput } from '../../../src/vcpu/gdb/packets.js';

const read = (text: string | Uint8Array, reader = new PacketReader()): GdbInput[] =>
  reader.push(typeof text === 'string' ? Buffer.from(text, 'latin1') : text);

describe('packets', () => {
  it('"$packet-data#checksum": the checksum is the sum of all characters, modulo 256', () => {
    expect(read('+$g#67-$?#3f\x03')).toEqual([
      { kind: 'acknowledged' },
      { kind: 'packet', data: 'g' },
      { kind: 'not-acknowledged' },
      { kind: 'packet', data: '?' },
      { kind: 'interrupt' },
    ]);
    expect(read('$g#68')).toEqual([{ kind: 'corrupt' }]);
    expect(read('$g#zz')).toEqual([{ kind: 'corrupt' }]);
  });

  it('"the escaped character is transmitted XORed with 0x20"', () => {
    expect(read('$X}\x03#d8')).toEqual([{ kind: 'packet', data: 'X#' }]);
    expect(frame('#$}*').toString('latin1').slice(0, -2)).toBe('$}\x03}\x04}]}\n#');
  });

  it('any data comes back as it was, in whatever pieces it comes', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 300 }), fc.integer({ min: 1, max: 40 }), (bytes, piece) => {
        const data = Buffer.from(bytes).toString('latin1');
        const wire = frame(data);
        const reader = new PacketReader();
        const inputs: GdbInput[] = [];
        for (let at = 0; at < wire.length; at += piece) inputs.push(...read(wire.subarray(at, at + piece), reader));
        expect(inputs).toEqual([{ kind: 'packet', data }]);
      }),
    );
  });

  it('a packet longer than PacketSize is refused, not stored, and the next one is read', () => {
    const reader = new PacketReader();
    const long = frame('m'.repeat(PACKET_MAX + 1));
    expect(read(long, reader)).toEqual([{ kind: 'corrupt' }]);
    expect(read(frame('m'.repeat(PACKET_MAX)), reader)).toHaveLength(1);
    expect(read('$?#3f', reader)).toEqual([{ kind: 'packet', data: '?' }]);
  });

  it('what no debugger sends is foreign from its first byte on', () => {
    expect(read('GET / HTTP/1.1')[0]).toEqual({ kind: 'foreign' });
  });
});
