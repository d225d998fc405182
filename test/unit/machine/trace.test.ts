// Recorded traces: the file and what is cut off it, the summary's numbers, and the form that other viewers read.
// "Trace Event Format": complete events have ph X, ts and dur in microseconds.
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { chromeTrace } from '../../../src/machine/trace/chrome-trace.js';
import {
  encodeHeader,
  encodeRecords,
  TRACE_RECORD_BYTES,
  TraceFile,
  type TraceHeader,
  type TraceRecord,
} from '../../../src/machine/trace/trace-format.js';
import { summarize } from '../../../src/machine/trace/trace-summary.js';
import { recordTrace } from '../../../src/machine/trace/trace-recorder.js';
import { formatSummary, time } from '../../../src/cli/trace-text.js';
import type { TracedExit, TraceReader } from '../../../src/vcpu/observe/trace-reader.js';

const directory = mkdtempSync(join(tmpdir(), 'microvisor-trace-'));
afterAll(() => rmSync(directory, { recursive: true }));

const HEADER: TraceHeader = {
  kernel: 'k',
  cmdline: 'quiet',
  cpus: 2,
  tscKhz: 1000,
  devices: [{ space: 'port', base: 0x3f8, length: 8, name: 'COM1' }],
};

const out = (entered: number, exited: number, value = 0x41): TracedExit => ({
  entered,
  exited,
  reason: 2,
  access: { space: 'port', address: 0x3f8, isWrite: true, size: 1, count: 2, value },
  words: [],
});
const halt = (entered: number, exited: number): TracedExit => ({
  entered,
  exited,
  reason: 5,
  access: undefined,
  words: [],
});

// Milliseconds, since there are a thousand cycles in one. vCPU 0: 4 ms served of which 3 the longest; a hole; one more.
const BYTES = Buffer.concat([
  encodeHeader(HEADER),
  encodeRecords(0, [out(1000, 2000), out(3000, 5000), halt(8000, 9000)], 0),
  encodeRecords(1, [halt(1000, 4000)], 0),
  encodeRecords(0, [out(20_000, 21_000)], 7),
]);

function traceFile(bytes: Buffer): string {
  const path = join(directory, 'a.trace');
  writeFileSync(path, bytes);
  return path;
}

function recordsOf(bytes: Buffer): TraceRecord[] {
  using file = TraceFile.open(traceFile(bytes));
  return [...file.records()];
}

describe('trace file', () => {
  it('gives back what was written', () => {
    using file = TraceFile.open(traceFile(BYTES));
    expect(file.header).toEqual(HEADER);
    const { words: _, ...exit } = out(1000, 2000);
    const records = [...file.records()];
    expect(records[0]).toEqual({ vcpu: 0, exit });
    expect(records[4]).toEqual({ vcpu: 0, lost: 7 });
    expect(records).toHaveLength(6);
  });

  it('a file that was cut off anywhere is refused, or read up to there', () => {
    const headerBytes = encodeHeader(HEADER).length;
    for (let length = 0; length < BYTES.length; length++) {
      const cut = BYTES.subarray(0, length);
      if (length < headerBytes) expect(() => recordsOf(cut)).toThrow(/no trace|damaged/);
      else expect(recordsOf(cut)).toHaveLength(Math.floor((length - headerBytes) / TRACE_RECORD_BYTES));
    }
  });

  it('a header of another kind is damaged', () => {
    const bad = encodeHeader({ ...HEADER, tscKhz: 0 });
    expect(() => recordsOf(bad)).toThrow(/not what a trace has/);
  });

  it('the recorder writes what the rings give, and counts what they lost', () => {
    const path = join(directory, 'b.trace');
    const fd = openSync(path, 'w');
    const batches = [[out(1, 2)], [halt(3, 4)]];
    const reader = { tscKhz: 1000, lost: 0, read: () => batches.shift() ?? [] };
    const recorder = recordTrace(fd, [reader as unknown as TraceReader], HEADER);
    reader.lost = 3;
    expect(recorder.finish()).toEqual({ exits: 1, lost: 3 });
    closeSync(fd);
    using file = TraceFile.open(path);
    expect([...file.records()][0]).toEqual({ vcpu: 0, lost: 3 });
  });
});

describe('trace summary', () => {
  const summary = summarize(HEADER, () => recordsOf(BYTES), 4);

  it('counts and times by kind; what nobody saw the end of has no time', () => {
    const kinds = new Map(summary.kinds.map((kind) => [kind.name, kind]));
    expect(kinds.get('out 0x3f8 COM1')).toMatchObject({ count: 3, totalMs: 4, longestMs: 3 });
    expect(kinds.get('KVM_EXIT_HLT')).toMatchObject({ count: 2, totalMs: 0 });
    expect(summary).toMatchObject({ exits: 5, lost: 7, durationMs: 20, insideMs: 8, outsideMs: 4 });
  });

  it('the timeline has every exit once, on its vCPU; a device has its accesses and bytes', () => {
    expect(summary.timeline).toEqual([
      [2, 1, 0, 1],
      [1, 0, 0, 0],
    ]);
    expect(summary.devices).toEqual([{ name: 'COM1', reads: 0, writes: 3, bytes: 6, firstMs: 1, lastMs: 20 }]);
  });

  it('as text: no line wider than the terminal, no control character of the guest', () => {
    const text = formatSummary({ ...HEADER, kernel: 'k\x1b[2J' }, summary, 80);
    expect(text).toContain('5 exits in 20.00 ms, 7 more were lost');
    expect(text).not.toContain('\x1b');
    expect(Math.max(...text.split('\n').map((line) => line.length))).toBeLessThanOrEqual(80);
    expect(
      formatSummary(
        HEADER,
        summarize(HEADER, () => [], 4),
        80,
      ),
    ).toContain('0 exits');
    expect([time(0.0005), time(0.5), time(5), time(5000)]).toEqual(['0.50 µs', '500.0 µs', '5.00 ms', '5.00 s']);
  });
});

describe('Trace Event Format', () => {
  it('"complete events" with ts and dur in microseconds, one row a vCPU', () => {
    const text = [...chromeTrace(HEADER, () => recordsOf(BYTES))].join('');
    const { traceEvents } = JSON.parse(text) as {
      traceEvents: { name: string; ph: string; ts?: number; dur?: number; tid: number }[];
    };
    const served = traceEvents.filter(({ name }) => name === 'out 0x3f8 COM1');
    expect(served.map(({ ph, ts, dur, tid }) => ({ ph, ts, dur, tid }))).toEqual([
      { ph: 'X', ts: 1000, dur: 1000, tid: 0 },
      { ph: 'X', ts: 4000, dur: 3000, tid: 0 },
      { ph: 'X', ts: 20_000, dur: 0, tid: 0 },
    ]);
    expect(traceEvents.filter(({ ph }) => ph === 'M').map(({ name }) => name)).toEqual([
      'process_name',
      'thread_name',
      'thread_name',
    ]);
    expect(traceEvents.filter(({ name }) => name === 'guest')).toHaveLength(5);
  });

  it('is a whole file for an empty trace', () => {
    expect(JSON.parse([...chromeTrace(HEADER, () => [])].join(''))).toHaveProperty('traceEvents');
    expect(readFileSync(traceFile(BYTES)).length).toBe(BYTES.length);
  });
});
