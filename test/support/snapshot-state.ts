// A state as a snapshot's file has it, small and whole, for tests that change it; and the file around any JSON.
import { crc32 } from 'node:zlib';
import { checkState, type MachineState } from '../../src/machine/snapshot/state.js';
import { STATE_NAMES, STATE_ROWS } from '../../src/vcpu/saved-vcpu.js';

/** What a test changes of a state, as JSON has it. */
export interface PlainState {
  architecture: string;
  savedAt: number;
  clock: string;
  pit: string;
  readonly config: Record<string, unknown>;
  readonly registers: { readonly fields: [device: string, name: string, value: number][] };
  readonly vcpus: {
    readonly rows: Record<string, string>;
    readonly msrs: [number, string][];
    readonly tsc: { khz: number };
    cpuid: string;
  }[];
  readonly irqchips: { picMaster: string; ioapic: string };
  readonly ram: Record<string, unknown>;
}

const base64 = (bytes: number): string => Buffer.alloc(bytes).toString('base64');

/** One CPUID entry behind its count. */
function cpuidTable(): string {
  const table = Buffer.alloc(48);
  table.writeUInt32LE(1, 0);
  return table.toString('base64');
}

/** What `JSON.parse` gives of a state file's body. */
export function plainSample(): Record<string, unknown> {
  return {
    architecture: 'x86_64',
    host: { kernel: '6.1.0', processor: 'a processor' },
    savedAt: 1_700_000_000_000,
    config: {
      memoryMiB: 1,
      cpus: 1,
      firmware: 'both',
      console: 'serial',
      consoleOverflow: 'drop',
      entropy: false,
      disks: [{ path: '/data.img', readOnly: false, overlay: '/overlay' }],
      nets: [{ backend: { kind: 'switch', name: 'a' }, mac: '52:54:00:12:34:56', lockMac: false }],
      virtio: 0,
      devices: [],
    },
    kernel: { format: 'flat', cmdline: '', placed: [{ name: 'image', base: 0x7c00, size: 2 }] },
    quirks: ['syscall'],
    files: [{ path: '/data.img', bytes: 1024, modified: '1700000000000000001' }],
    offers: [{ name: 'disk0', deviceId: 2, features: [9], queueSizes: [128], config: base64(8) }],
    registers: { fields: [['COM1', 'IER', 5]], areas: [['rtc', 'CMOS', base64(128)]] },
    vcpus: [
      {
        rows: Object.fromEntries(STATE_NAMES.map((name) => [name, base64(STATE_ROWS[name].size)])),
        msrs: [[0x10, '18446744073709551615']],
        cpuid: cpuidTable(),
        tsc: { khz: 2_000_000, value: '12345678901234567890', offset: '0' },
      },
    ],
    irqchips: { picMaster: base64(512), picSlave: base64(512), ioapic: base64(512) },
    pit: base64(112),
    clock: '1000000000',
    prompt: '~ # ',
    exec: { isReady: true, task: 'awaited', credit: 4096, waiting: [[0x81, base64(3)]], toLine: '', fromLine: '' },
    ram: { file: 'ram.0123456789abcdef', bytes: 1 << 20, extents: [[7, 1]], hashes: [[0, '0'.repeat(64)]] },
  };
}

export function sampleState(): MachineState {
  const state = checkState(plainSample());
  if (typeof state === 'string') throw new Error(state);
  return state;
}

/** A state file with a right checksum around `body`. */
export function stateFile(body: string, version = '2'): Buffer {
  const bytes = Buffer.from(body);
  const checksum = crc32(bytes).toString(16).padStart(8, '0');
  return Buffer.concat([Buffer.from(`microvisor-snapshot ${version} ${checksum} ${bytes.length}\n`), bytes]);
}
