// The machine's configuration: its defaults, and for each field that cannot work a ConfigError that names it.
// The documentation of VmConfig in src/machine/config.ts.
import { describe, expect, it } from 'vitest';
import { completeConfig, ConfigError, LIMITS, type VmConfig } from '../../../src/machine/config.js';

const KERNEL = 'vmlinux';

function refuse(config: unknown): ConfigError {
  try {
    completeConfig(config as VmConfig);
  } catch (error) {
    if (error instanceof ConfigError) return error;
    throw error;
  }
  throw new Error('the configuration was taken');
}

const NOT_A_NUMBER_OF = [Number.NaN, Infinity, -1, 1.5, 2 ** 64, '2', null, true];
const NOT_A_TEXT = [5, null, {}, true, 'a\0b'];
const NOT_A_BOOLEAN = [0, 1, 'yes', null];

/** Field → values that it must refuse. */
const BAD: Readonly<Record<string, readonly unknown[]>> = {
  kernel: [undefined, '', 'a\0b', 5, null, {}, { name: 'a' }, { name: 'a', bytes: [1] }, { bytes: new Uint8Array(1) }],
  initrd: ['', ...NOT_A_TEXT],
  cmdline: NOT_A_TEXT,
  entry: ['', 'multiboot', 'REAL', 5, null],
  load: [...NOT_A_NUMBER_OF, 2 ** 48],
  memoryMiB: [...NOT_A_NUMBER_OF, 0, 65537],
  cpus: [...NOT_A_NUMBER_OF, 0, 33],
  firmware: ['none', '', null],
  mergeable: NOT_A_BOOLEAN,
  trace: NOT_A_BOOLEAN,
  hugePages: NOT_A_BOOLEAN,
  consoleOverflow: ['block', '', null],
  exec: ['ls', 5, null],
  disks: ['disk.img', null, {}],
  nets: ['user', null, {}],
  console: ['hvc0', '', null],
  entropy: NOT_A_BOOLEAN,
  virtio: [{}, null, 'net'],
  devices: [{}, null, 'counter.js'],
  onWarning: ['say', null],
  appendQuirkOptions: NOT_A_BOOLEAN,
  milestones: ['login', null],
  signal: [{ aborted: false }, new AbortController(), null],
};

describe('completeConfig', () => {
  it('needs a kernel only, and fills in the documented defaults', () => {
    expect(completeConfig({ kernel: KERNEL })).toEqual({
      kernel: KERNEL,
      cmdline: 'console=ttyS0',
      entry: 'auto',
      memoryMiB: 128,
      cpus: 1,
      firmware: 'both',
      mergeable: false,
      trace: false,
      hugePages: false,
      consoleOverflow: 'drop',
      disks: [],
      nets: [],
      console: 'serial',
      entropy: false,
      virtio: [],
      devices: [],
      appendQuirkOptions: false,
      milestones: {},
    });
  });

  it('leaves what is given as it is', () => {
    const { signal } = new AbortController();
    const config = {
      kernel: { name: 'built here', bytes: Uint8Array.of(0xf4) },
      initrd: 'rd.cpio',
      cmdline: '',
      entry: 'real',
      load: 0,
      memoryMiB: LIMITS.memoryMiB[1],
      cpus: LIMITS.cpus[1],
      firmware: 'mptable',
      mergeable: true,
      trace: true,
      hugePages: true,
      consoleOverflow: 'wait',
      exec: { argv: ['ls', ''], env: { A: 'b' }, cwd: '/' },
      disks: [
        { path: 'a.img', readOnly: false },
        { path: 'b.img', readOnly: true, overlay: 'o', id: 'b', bytesPerSecond: 1, operationsPerSecond: 2 },
      ],
      nets: [
        { backend: { kind: 'user', forwards: [{ host: 8080, guest: 80 }] }, lockMac: false },
        { backend: { kind: 'tap', name: 'tap0' }, mac: '52:54:00:12:34:56', lockMac: true, pcap: 'net.pcap' },
        { backend: { kind: 'switch', name: 'lan' }, lockMac: false },
      ],
      console: 'virtio',
      entropy: true,
      virtio: [],
      devices: [{ module: 'counter.js', options: { base: 1 } }],
      onWarning: () => undefined,
      appendQuirkOptions: true,
      milestones: { prompt: '# ' },
      signal,
    } satisfies VmConfig;
    const complete = completeConfig(config);
    expect(complete).toEqual(config);
    expect(complete.signal).toBe(signal);
  });

  const rows = Object.entries(BAD).flatMap(([field, values]) => values.map((value) => [field, value] as const));
  it.each(rows)('%s: %o is refused by name', (field, value) => {
    const error = refuse({ kernel: KERNEL, entry: 'real', [field]: value });
    expect(error.field).toBe(field);
    expect(error.message).toMatch(new RegExp(`^${field}: \\S`));
    // A sentence of ours, not of the checker's types.
    expect(error.message).not.toMatch(/Invalid|Expected .* but received|no such field/);
  });

  it('has a row for every field', () => {
    expect(Object.keys(BAD).toSorted()).toEqual(
      [...Object.keys(completeConfig({ kernel: KERNEL })), 'exec', 'initrd', 'load', 'onWarning', 'signal'].toSorted(),
    );
  });

  it.each([
    ['exec.argv', { argv: [] }],
    ['exec.argv', {}],
    ['exec.argv.1', { argv: ['ls', 'a\0b'] }],
    ['exec.env.PATH', { argv: ['ls'], env: { PATH: 5 } }],
    ['exec.cwd', { argv: ['ls'], cwd: 'a\0' }],
    ['exec.argv', { argv: ['ls'], shell: true }],
    ['exec.shell', { shell: 5 }],
    ['exec.shell.rows', { shell: { columns: 80, rows: 0 } }],
    ['milestones.prompt', undefined],
  ])('names the field inside: %s', (field, exec) => {
    const bad = exec === undefined ? { milestones: { prompt: 1 } } : { exec };
    expect(refuse({ kernel: KERNEL, ...bad }).field).toBe(field);
  });

  it.each([
    ['disks.0.path', { disks: [{}] }],
    ['disks.1.path', { disks: [{ path: 'a' }, { path: '' }] }],
    ['disks.0.id', { disks: [{ path: 'a', id: 'é'.repeat(11) }] }],
    ['disks.0.bytesPerSecond', { disks: [{ path: 'a', bytesPerSecond: 0 }] }],
    ['disks.0.format', { disks: [{ path: 'a', format: 'qcow2' }] }],
    ['nets.0.backend', { nets: [{}] }],
    ['nets.0.backend.kind', { nets: [{ backend: { kind: 'bridge' } }] }],
    ['nets.0.backend.name', { nets: [{ backend: { kind: 'tap', name: 'an interface name' } }] }],
    ['nets.0.backend.forwards.0.host', { nets: [{ backend: { kind: 'user', forwards: [{ host: 0, guest: 1 }] } }] }],
    ['nets.0.mac', { nets: [{ backend: { kind: 'user' }, mac: '01:00:5e:00:00:01' }] }],
    ['nets.0.mac', { nets: [{ backend: { kind: 'user' }, mac: '52:54:00:12:34' }] }],
    ['virtio.0', { virtio: [{}] }],
    ['devices.1', { devices: [{ module: 'a.js' }, 'b.js'] }],
  ])('names the field of a device: %s', (field, devices) => {
    expect(refuse({ kernel: KERNEL, ...devices }).field).toBe(field);
  });

  it('a field that does not exist is named, and where to look', () => {
    const error = refuse({ kernel: KERNEL, memory: 128 });
    expect(error.message).toBe('memory: no such field; see VmConfig for those that exist');
  });

  it('says the limits: "a whole number from 1 to 65536"', () => {
    expect(refuse({ kernel: KERNEL, memoryMiB: 0 }).message).toBe(
      'memoryMiB: RAM in MiB must be a whole number from 1 to 65536',
    );
    expect(refuse({ kernel: KERNEL, cpus: 64 }).message).toContain('a whole number from 1 to 32');
    expect(refuse({ kernel: KERNEL, firmware: 'uefi' }).message).toBe('firmware: must be one of mptable, acpi, both');
  });

  it.each(['auto', 'pvh', 'linux64', undefined])(
    '"an address goes with a flat binary only": not with entry %s',
    (entry) => {
      expect(refuse({ kernel: KERNEL, load: 0x1000, ...(entry === undefined ? {} : { entry }) }).field).toBe('load');
    },
  );

  it('says which field is missing', () => {
    expect(refuse({}).message).toBe('kernel: is missing');
    expect(refuse({ kernel: KERNEL, exec: {} }).message).toBe('exec.argv: is missing');
  });

  it.each([undefined, null, 5, 'vmlinux'])('%o is no configuration', (config) => {
    expect(refuse(config).message).toBe('configuration: must be an object with named fields');
  });
});
