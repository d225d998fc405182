// Frames on a byte stream: in pieces of any size, with a reader that stops, and with lengths that cannot be.
import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { FrameReader, packFrame } from '../../../../src/devices/backend/frame-stream.js';
import { arpProbe, isProbeAnswer } from '../../../../src/devices/backend/arp-probe.js';
import { formatMac, parseMac, randomMac } from '../../../../src/devices/backend/ethernet.js';

describe('FrameReader', () => {
  test('whatever the pieces, and however often the reader stops: the same frames in the same order', () => {
    fc.assert(
      fc.property(
        fc.array(fc.uint8Array({ maxLength: 40 }), { maxLength: 20 }),
        fc.array(fc.integer({ min: 1, max: 60 }), { minLength: 1, maxLength: 8 }),
        fc.infiniteStream(fc.boolean()),
        (frames, sizes, isWelcome) => {
          const reader = new FrameReader(40);
          const stream = Buffer.concat(frames.map(packFrame));
          const got: Buffer[] = [];
          const take = (bytes: Buffer): boolean => {
            if (isWelcome.next().value === false) return false;
            got.push(Buffer.from(bytes));
            return true;
          };
          for (let at = 0, i = 0; at < stream.length; i++) {
            const size = sizes[i % sizes.length] ?? 1;
            // The piece is used again, as a socket does it.
            const piece = Buffer.from(stream.subarray(at, at + size));
            reader.push(piece, take);
            piece.fill(0xee);
            at += size;
          }
          while (reader.push(Buffer.alloc(0), take) === 'stopped');
          expect(got).toEqual(frames.map((bytes) => Buffer.from(bytes)));
        },
      ),
    );
  });

  test('a length that no frame has breaks the stream', () => {
    const reader = new FrameReader(1514);
    expect(reader.push(Buffer.from([0, 0, 5, 0xeb]), () => true)).toBe('broken');
  });
});

describe('addresses', () => {
  test('parsed and printed; a random one is one station’s, administered locally', () => {
    expect(formatMac(parseMac('52:54:00:AB:cd:ef'))).toBe('52:54:00:ab:cd:ef');
    for (let i = 0; i < 100; i++) expect((randomMac()[0] ?? 0) & 3).toBe(2);
  });

  test.each([
    '',
    '52:54:00:12:34',
    '52:54:00:12:34:56:78',
    '52-54-00-12-34-56',
    '53:54:00:12:34:56',
    '00:00:00:00:00:00',
    'g0:00:00:00:00:01',
  ])('"%s" is refused with an example', (text) => expect(() => parseMac(text)).toThrow(/as 52:54:00:12:34:56/));
});

describe('the ARP probe', () => {
  test('RFC 5227: "the sender IP address field set to all zeroes", and its answer is known', () => {
    const probe = arpProbe(parseMac('52:54:00:12:34:56'));
    expect(probe.length).toBe(42);
    expect([...probe.subarray(28, 32)]).toEqual([0, 0, 0, 0]);
    expect(isProbeAnswer(probe)).toBe(false);
    const answer = probe.slice();
    answer[21] = 2;
    answer.set(probe.subarray(38, 42), 28);
    expect(isProbeAnswer(answer)).toBe(true);
    expect(isProbeAnswer(answer.subarray(0, 41))).toBe(false);
  });
});
