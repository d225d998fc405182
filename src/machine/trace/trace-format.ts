// A recorded trace as a file: a header in JSON, then one record of fixed size an exit. Little-endian throughout.
// Our own format. It does not depend on how the ring in memory looks: a file outlives the version that wrote it.
import { closeSync, openSync, readSync } from 'node:fs';
import type { RegisterInfo } from '../../devices/register-table.js';
import { defineStruct } from '../../memory/struct.js';
import type { TracedAccess, TracedExit } from '../../vcpu/observe/trace-reader.js';

/** What the header says about the machine. */
export interface TraceHeader {
  readonly kernel: string;
  readonly cmdline: string;
  readonly cpus: number;
  /** TSC cycles a millisecond: the unit of all stamps. */
  readonly tscKhz: number;
  /** Where its devices lie, for their names. */
  readonly devices: readonly TraceDevice[];
}

export interface TraceDevice {
  readonly space: 'port' | 'mmio';
  readonly base: number;
  readonly length: number;
  readonly name: string;
  /** Absent where they have no names, and in files of earlier versions. */
  readonly registers?: readonly RegisterInfo[];
}

/** An exit of a vCPU, or the sign that so many of its exits were lost there because nobody read them in time. */
export type TraceRecord =
  | { readonly vcpu: number; readonly exit: Omit<TracedExit, 'words'> }
  | { readonly vcpu: number; readonly lost: number };

const MAGIC = Buffer.from('MVTRACE1');
const LENGTH_BYTES = 4;
/** A header is a page of text; one beyond this is none of ours. */
const HEADER_MAX = 1 << 20;
/** `reason` of the record that says how many were lost. */
const LOST = 0xffff_ffff;
const RECORDS_AT_ONCE = 4096;

const record = defineStruct('trace record', 48, {
  /** u64 each: the bits of a double. */
  entered: [0, 'u64'],
  exited: [8, 'u64'],
  address: [16, 'u64'],
  reason: [24, 'u32'],
  value: [28, 'u32'],
  count: [32, 'u32'],
  vcpu: [36, 'u16'],
  space: [38, 'u8'],
  isWrite: [39, 'u8'],
  size: [40, 'u8'],
});
const AT = record.rows;
/** Bytes of a record. */
export const TRACE_RECORD_BYTES = record.size;
const SPACES: readonly (TracedAccess['space'] | undefined)[] = [undefined, 'port', 'mmio', 'msr'];

export class TraceFileError extends Error {
  override readonly name = 'TraceFileError';
}

export function encodeHeader(header: TraceHeader): Buffer {
  const json = Buffer.from(JSON.stringify(header));
  const length = Buffer.alloc(LENGTH_BYTES);
  length.writeUInt32LE(json.length);
  return Buffer.concat([MAGIC, length, json]);
}

export function encodeRecords(vcpu: number, exits: readonly TracedExit[], lost: number): Buffer {
  const bytes = Buffer.alloc((exits.length + (lost > 0 ? 1 : 0)) * record.size);
  let at = 0;
  if (lost > 0) {
    bytes.writeUInt32LE(LOST, AT.reason[0]);
    bytes.writeUInt32LE(lost, AT.value[0]);
    bytes.writeUInt16LE(vcpu, AT.vcpu[0]);
    at = record.size;
  }
  for (const { entered, exited, reason, access } of exits) {
    bytes.writeDoubleLE(entered, at + AT.entered[0]);
    bytes.writeDoubleLE(exited, at + AT.exited[0]);
    bytes.writeUInt32LE(reason, at + AT.reason[0]);
    bytes.writeUInt16LE(vcpu, at + AT.vcpu[0]);
    if (access !== undefined) {
      bytes.writeDoubleLE(access.address, at + AT.address[0]);
      bytes.writeUInt32LE(access.value, at + AT.value[0]);
      bytes.writeUInt32LE(access.count, at + AT.count[0]);
      bytes.writeUInt8(SPACES.indexOf(access.space), at + AT.space[0]);
      bytes.writeUInt8(access.isWrite ? 1 : 0, at + AT.isWrite[0]);
      bytes.writeUInt8(access.size, at + AT.size[0]);
    }
    at += record.size;
  }
  return bytes;
}

/** A trace file that is read piece by piece. */
export class TraceFile {
  readonly #recordsAt: number;

  private constructor(
    private readonly fd: number,
    readonly header: TraceHeader,
    recordsAt: number,
  ) {
    this.#recordsAt = recordsAt;
  }

  /** @throws TraceFileError when it is none; Error of the host when it cannot be opened */
  static open(path: string): TraceFile {
    const fd = openSync(path, 'r');
    try {
      const start = Buffer.alloc(MAGIC.length + LENGTH_BYTES);
      const has = readSync(fd, start, 0, start.length, 0);
      if (has < start.length || !start.subarray(0, MAGIC.length).equals(MAGIC))
        throw new TraceFileError(`${path} is no trace; record one with microvisor run --trace FILE`);
      const length = start.readUInt32LE(MAGIC.length);
      const json = Buffer.alloc(Math.min(length, HEADER_MAX));
      if (length > HEADER_MAX || readSync(fd, json, 0, length, start.length) < length)
        throw new TraceFileError(`${path} is damaged: its header is cut off; record it anew`);
      return new TraceFile(fd, headerOf(json, path), start.length + length);
    } catch (error) {
      closeSync(fd);
      throw error;
    }
  }

  /**
   * All records from `first` on; of one vCPU in order. A last one that was cut off is left out.
   * @param first how many are left out before
   */
  *records(first = 0): Generator<TraceRecord> {
    const bytes = Buffer.alloc(RECORDS_AT_ONCE * record.size);
    for (let at = this.#recordsAt + first * record.size; ;) {
      const has = readSync(this.fd, bytes, 0, bytes.length, at);
      const whole = Math.floor(has / record.size);
      for (let i = 0; i < whole; i++) yield decode(bytes, i * record.size);
      if (whole === 0) return;
      at += whole * record.size;
    }
  }

  [Symbol.dispose](): void {
    closeSync(this.fd);
  }
}

function headerOf(json: Buffer, path: string): TraceHeader {
  const damaged = new TraceFileError(`${path} is damaged: its header is not what a trace has; record it anew`);
  let header: Partial<TraceHeader> | null;
  try {
    header = JSON.parse(json.toString()) as Partial<TraceHeader> | null;
  } catch {
    throw damaged;
  }
  const { kernel, cmdline, cpus, tscKhz, devices } = header ?? {};
  const isRight =
    typeof kernel === 'string' &&
    typeof cmdline === 'string' &&
    typeof cpus === 'number' &&
    typeof tscKhz === 'number' &&
    tscKhz > 0 &&
    Array.isArray(devices);
  if (!isRight) throw damaged;
  return { kernel, cmdline, cpus, tscKhz, devices };
}

function decode(bytes: Buffer, at: number): TraceRecord {
  const reason = bytes.readUInt32LE(at + AT.reason[0]);
  const value = bytes.readUInt32LE(at + AT.value[0]);
  const vcpu = bytes.readUInt16LE(at + AT.vcpu[0]);
  if (reason === LOST) return { vcpu, lost: value };
  const space = SPACES[bytes.readUInt8(at + AT.space[0])];
  return {
    vcpu,
    exit: {
      entered: bytes.readDoubleLE(at + AT.entered[0]),
      exited: bytes.readDoubleLE(at + AT.exited[0]),
      reason,
      access:
        space === undefined
          ? undefined
          : {
              space,
              address: bytes.readDoubleLE(at + AT.address[0]),
              isWrite: bytes.readUInt8(at + AT.isWrite[0]) !== 0,
              size: bytes.readUInt8(at + AT.size[0]),
              count: bytes.readUInt32LE(at + AT.count[0]),
              value,
            },
    },
  };
}
