// The trace's reader: what it gets while the ring is written, and what it says about the exits it missed.
// This test writes records as native/trace.h does; test/kvm/trace.test.ts has the records of real exits.
import { describe, expect, it } from 'vitest';
import { KVM_EXIT_IO } from '../../../src/kvm/abi.js';
import { TraceReader } from '../../../src/vcpu/observe/trace-reader.js';
import { allocateTrace, TRACE_LAYOUT } from '../../../src/vcpu/observe/trace.js';

const { head: HEAD, headerBytes, recordBytes, record: AT } = TRACE_LAYOUT;

function rig(records = 8) {
  const ring = allocateTrace(records);
  const words = new Int32Array(ring);
  const view = new DataView(ring);
  /** A byte written to a port. */
  const write = (port: number, stamp: number): void => {
    const head = words[HEAD] as number;
    const record = headerBytes + (head & (records - 1)) * recordBytes;
    view.setFloat64(record + AT.entered, stamp, true);
    view.setFloat64(record + AT.exited, stamp + 1, true);
    view.setUint32(record + AT.reason, KVM_EXIT_IO, true);
    view.setUint32(record + AT.union, (port << 16) | (1 << 8) | 1, true);
    view.setUint32(record + AT.union + 4, 1, true);
    words[HEAD] = head + 1;
  };
  return { ring, words, write, reader: new TraceReader(ring) };
}

describe('a reader', () => {
  it('gets "every exit since the last look, in order"', () => {
    const { reader, write } = rig();
    expect(reader.read()).toEqual([]);
    write(1, 10);
    write(2, 20);
    expect(reader.read().map(({ access }) => access?.address)).toEqual([1, 2]);
    write(3, 30);
    expect(reader.read().map(({ access }) => access?.address)).toEqual([3]);
    expect(reader.read()).toEqual([]);
    expect(reader.lost).toBe(0);
  });

  it('says how many were overwritten before it looked, and begins with the oldest whole one', () => {
    const { reader, write } = rig(8);
    write(0, 5);
    reader.read();
    for (let i = 1; i <= 20; i++) write(i, i * 10);
    expect(reader.read().map(({ access }) => access?.address)).toEqual([14, 15, 16, 17, 18, 19, 20]);
    expect(reader.lost).toBe(13);
  });

  it('that comes late begins with what the ring remembers, and has missed nothing', () => {
    const { ring, write } = rig(4);
    for (let i = 1; i <= 10; i++) write(i, i * 10);
    const late = new TraceReader(ring);
    expect(late.read().map(({ access }) => access?.address)).toEqual([8, 9, 10]);
    expect(late.lost).toBe(0);
  });

  it('goes on where the number of records wraps', () => {
    const { ring, words, write } = rig(4);
    words[HEAD] = 2 ** 31 - 2;
    const reader = new TraceReader(ring);
    for (let i = 0; i < 4; i++) {
      write(i, 10 + i);
      expect(reader.read()).toHaveLength(1);
    }
    expect(words[HEAD]).toBe(-(2 ** 31) + 2);
  });
});

it.each([0, 1, 3, 2 ** 21, 2.5])('a ring of %d records is refused', (records) => {
  expect(() => allocateTrace(records)).toThrow(/power of two/);
});
