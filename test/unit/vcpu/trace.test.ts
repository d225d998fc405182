// The trace: what a record holds, what a reader gets while the ring is written, and what it says about the exits it missed.
// KVM API 5 (struct kvm_run); this test plays KVM by writing the exit into the mapping.
import { describe, expect, it } from 'vitest';
import { KVM_EXIT_HLT, KVM_EXIT_IO, KVM_EXIT_MMIO, KVM_EXIT_X86_WRMSR } from '../../../src/kvm/abi.js';
import { KVM_RUN_OFFSET as AT } from '../../../src/kvm/kvm-run.js';
import { TraceReader } from '../../../src/vcpu/observe/trace-reader.js';
import { allocateTrace, createTraceRecorder } from '../../../src/vcpu/observe/trace.js';

const DATA = 4096;

function rig(records = 8) {
  const buffer = new ArrayBuffer(3 * 4096);
  const view = new DataView(buffer);
  const stamps = new Float64Array(2);
  const ring = allocateTrace(records);
  const recorder = createTraceRecorder(ring, {
    stamps,
    getTscKhz: () => 2_000_000,
    run: { i32: new Int32Array(buffer) },
  });
  const at = (entered: number, exited: number): void => stamps.set([entered, exited]);
  const io = (port: number, isWrite: boolean, size: number, value: number, count = 1): void => {
    view.setUint32(AT.exit_reason, KVM_EXIT_IO, true);
    view.setUint8(AT.io.direction, isWrite ? 1 : 0);
    view.setUint8(AT.io.size, size);
    view.setUint16(AT.io.port, port, true);
    view.setUint32(AT.io.count, count, true);
    view.setBigUint64(AT.io.data_offset, BigInt(DATA), true);
    view.setUint32(DATA, value, true);
  };
  const mmio = (address: number, isWrite: boolean, size: number, value: number): void => {
    view.setUint32(AT.exit_reason, KVM_EXIT_MMIO, true);
    view.setBigUint64(AT.mmio.phys_addr, BigInt(address), true);
    view.setUint32(AT.mmio.data, value, true);
    view.setUint32(AT.mmio.len, size, true);
    view.setUint8(AT.mmio.is_write, isWrite ? 1 : 0);
  };
  const write = (port: number, stamp: number): void => {
    at(stamp, stamp + 1);
    io(port, true, 1, 0);
    recorder.exited();
    recorder.served();
  };
  return { ring, recorder, view, at, io, mmio, write, reader: new TraceReader(ring) };
}

describe('a record', () => {
  it('of a port write: stamps, port, size, value', () => {
    const { recorder, reader, at, io } = rig();
    at(1000, 2500);
    io(0x3f8, true, 1, 0xffff_ff41);
    recorder.exited();
    recorder.served();
    expect(reader.read()).toMatchObject([
      {
        entered: 1000,
        exited: 2500,
        reason: KVM_EXIT_IO,
        access: { space: 'port', address: 0x3f8, isWrite: true, size: 1, count: 1, value: 0x41 },
      },
    ]);
    expect(reader.tscKhz).toBe(2_000_000);
  });

  it('"before an exit is served, so that one which never ends is seen, too"; what a read gives is there afterwards', () => {
    const { recorder, view, at, mmio, ring } = rig();
    at(1, 2);
    mmio(0xfeb0_0000, false, 4, 0);
    recorder.exited();
    expect(new TraceReader(ring).read()).toMatchObject([
      { access: { address: 0xfeb0_0000, isWrite: false, value: 0 } },
    ]);
    view.setUint32(AT.mmio.data, 0xf472_6976, true);
    recorder.served();
    expect(new TraceReader(ring).read()).toMatchObject([{ access: { size: 4, value: 0xf472_6976 } }]);
  });

  it('of strings, addresses above 4 GiB, MSRs, and of reasons that are no access', () => {
    const { recorder, reader, view, at, io, mmio } = rig();
    const record = (stamp: number): void => {
      at(stamp, stamp + 1);
      recorder.exited();
      recorder.served();
    };
    io(0xe9, true, 2, 0x1_2345, 64);
    record(10);
    mmio(2 ** 40 + 8, true, 8, 7);
    record(20);
    view.setUint32(AT.exit_reason, KVM_EXIT_X86_WRMSR, true);
    view.setUint32(AT.msr.index, 0xc000_0082, true);
    view.setBigUint64(AT.msr.data, 0x1234n, true);
    record(30);
    view.setUint32(AT.exit_reason, KVM_EXIT_HLT, true);
    record(40);
    expect(reader.read().map(({ access }) => access)).toEqual([
      { space: 'port', address: 0xe9, isWrite: true, size: 2, count: 64, value: 0x2345 },
      { space: 'mmio', address: 2 ** 40 + 8, isWrite: true, size: 8, count: 1, value: 7 },
      { space: 'msr', address: 0xc000_0082, isWrite: true, size: 8, count: 1, value: 0x1234 },
      undefined,
    ]);
  });
});

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
    const { ring, recorder, at, io } = rig(4);
    const words = new Int32Array(ring);
    words[0] = 2 ** 31 - 2;
    const wrapping = createTraceRecorder(ring, {
      stamps: new Float64Array([1, 2]),
      getTscKhz: () => 1,
      run: { i32: new Int32Array(3 * 1024).fill(0).with(AT.exit_reason >> 2, KVM_EXIT_HLT) },
    });
    const reader = new TraceReader(ring);
    for (let i = 0; i < 4; i++) {
      wrapping.exited();
      expect(reader.read()).toHaveLength(1);
    }
    expect(words[0]).toBe(-(2 ** 31) + 2);
    expect([recorder, at, io]).toBeDefined();
  });
});

it.each([0, 1, 3, 2 ** 21, 2.5])('a ring of %d records is refused', (records) => {
  expect(() => allocateTrace(records)).toThrow(/power of two/);
});
