// `--disk`, `--net`, `--console virtio` and `--guest`: what their values come to, and what is refused.
import { describe, expect, test } from 'vitest';
import { completeConfig } from '../../../src/machine/config.js';
import { vmConfig } from '../../../src/cli/config-from-request.js';
import { parseConsoleTarget } from '../../../src/cli/console-target.js';
import { SIZE_ROW } from '../../../src/cli/disk.js';
import { parseDisk, RATE_ROWS } from '../../../src/cli/disk-option.js';
import { chooseGuest, parseGuest } from '../../../src/cli/guest-option.js';
import { parseNet, PORT_ROW } from '../../../src/cli/net-option.js';
import { parseNumber } from '../../../src/cli/numbers.js';
import { completeRequest, type RunRequest } from '../../../src/cli/run-options.js';
import { UsageError } from '../../../src/cli/usage-error.js';

const request = (options: Partial<Omit<RunRequest, 'command'>>): RunRequest => completeRequest(options, undefined);

describe('"--disk path=FILE[,ro][,overlay=FILE][,id=TEXT]"', () => {
  test.each([
    ['path=a', { path: 'a' }],
    ['a.img', { path: 'a.img' }],
    ['a.img,ro', { path: 'a.img', readOnly: true }],
    ['path=a=b', { path: 'a=b' }],
    ['path=a,,b,ro', { path: 'a,b', readOnly: true }],
    ['a,,,ro', { path: 'a,', readOnly: true }],
    ['id=x,path=a', { path: 'a', id: 'x' }],
    ['a,overlay=o', { path: 'a', overlay: 'o' }],
    ['a,bps=20M,iops=500', { path: 'a', bytesPerSecond: 20 * 2 ** 20, operationsPerSecond: 500 }],
    ['a,bps=1g', { path: 'a', bytesPerSecond: 2 ** 30 }],
    ['a,id=12345678901234567890', { path: 'a', id: '12345678901234567890' }],
  ])('%s', (text, disk) => {
    expect(parseDisk(text)).toEqual(disk);
  });

  test.each([
    ['', /takes path=FILE, ro/],
    [',ro', /takes path=FILE, ro/],
    ['path=', /takes path=FILE, not "path="/],
    ['path=a,', /takes path=FILE, ro.*not ""/],
    ['path=a,rw', /not "rw"/],
    ['path=a,format=qcow2', /not "format=qcow2"/],
    ['path=a,ro=on', /takes ro, not "ro=on"/],
    ['path=a,overlay', /takes overlay=FILE, not "overlay"/],
    ['path=a,path=b', /path twice/],
    // The first word without an equals sign is the file.
    ['ro,path=a', /path twice/],
    ['id=x', /names no file/],
    ['a,id=123456789012345678901', /--disk id: .*20 bytes/],
    // Bytes, not characters.
    ['a,id=ääääääääääz', /--disk id: .*20 bytes/],
    ['a,bps=0', /--disk bps: takes a size/],
    ['a,bps=1P', /--disk bps/],
    ['a,bps=-1', /--disk bps/],
    ['a,bps=1.5M', /--disk bps/],
    ['a,bps=M', /--disk bps/],
    ['a,iops=1K', /--disk iops: takes a whole number/],
    ['a,iops=NaN', /--disk iops/],
  ])('%j is refused', (text, message) => {
    expect(() => parseDisk(text)).toThrow(UsageError);
    expect(() => parseDisk(text)).toThrow(message);
    expect(() => parseDisk(text)).toThrow(/^--disk/);
  });
});

describe('"--net user|tap=NAME|switch=NAME|none[,mac=…][,pcap=FILE]"', () => {
  test.each([
    ['user', { backend: { kind: 'user', forwards: [] } }],
    ['tap=tap0', { backend: { kind: 'tap', name: 'tap0' } }],
    ['switch=lan,mac=52:54:00:AB:cd:ef', { backend: { kind: 'switch', name: 'lan' }, mac: '52:54:00:ab:cd:ef' }],
    ['user,pcap=a,,b', { backend: { kind: 'user', forwards: [] }, pcap: 'a,b' }],
    [
      'user,forward=8080:80,forward=2222:22',
      {
        backend: {
          kind: 'user',
          forwards: [
            { host: 8080, guest: 80 },
            { host: 2222, guest: 22 },
          ],
        },
      },
    ],
  ])('%s', (text, net) => {
    expect(parseNet(text, undefined)).toEqual([net]);
  });

  test('several; "none" is an empty list and stands alone', () => {
    const two = parseNet('tap=b', parseNet('tap=a', undefined));
    expect(two.map(({ backend }) => backend)).toEqual([
      { kind: 'tap', name: 'a' },
      { kind: 'tap', name: 'b' },
    ]);
    expect(parseNet('none', undefined)).toEqual([]);
    expect(() => parseNet('none', two)).toThrow(/^--net: none/);
    expect(() => parseNet('user', [])).toThrow(/^--net: none/);
    expect(() => parseNet('none', [])).toThrow(/^--net: none/);
  });

  test.each([
    ['', /starts with one of user, tap=NAME, switch=NAME, none, not ""/],
    ['bridge', /starts with/],
    ['user=x', /starts with.*not "user=x"/],
    ['tap', /starts with.*not "tap"/],
    ['tap=', /starts with/],
    ['none,mac=52:54:00:12:34:56', /starts with/],
    ['none=1', /starts with/],
    ['tap=a/b', /--net tap/],
    ['tap=a b', /--net tap/],
    ['tap=1234567890123456', /--net tap: .*15 bytes/],
    ['user,mac=52:54:00:12:34', /--net mac: takes six pairs/],
    ['user,mac=525400123456', /--net mac/],
    ['user,mac=01:00:5e:00:00:01', /--net mac: .*one station/],
    ['user,mac=ff:ff:ff:ff:ff:ff', /--net mac: .*one station/],
    ['user,mac=00:00:00:00:00:00', /--net mac: .*one station/],
    ['user,mac=', /takes mac=ADDRESS/],
    ['user,forward=80', /--net forward: takes HOST:GUEST/],
    ['user,forward=1:2:3', /--net forward: takes HOST:GUEST/],
    ['user,forward=0:80', /--net forward: takes a whole number from 1 to 65535/],
    ['user,forward=80:65536', /--net forward: /],
    ['user,forward=a:b', /--net forward: /],
    ['tap=a,forward=80:80', /--net forward: goes with user only/],
    ['user,forward=80:80,forward=80:81', /forward from port 80 twice/],
    ['user,vlan=3', /not "vlan=3"/],
  ])('%j is refused', (text, message) => {
    expect(() => parseNet(text, undefined)).toThrow(UsageError);
    expect(() => parseNet(text, undefined)).toThrow(message);
    expect(() => parseNet(text, undefined)).toThrow(/^--net/);
  });

  test.each([
    ['tap=a', 'tap=a', /tap a twice/],
    ['user,mac=52:54:00:00:00:01', 'tap=a,mac=52:54:00:00:00:01', /mac 52:54:00:00:00:01 twice/],
    ['user,pcap=f', 'tap=a,pcap=f', /pcap f twice/],
    ['user,forward=1:2', 'user,forward=1:3', /port 1 twice/],
  ])('%s beside %s is refused', (first, second, message) => {
    expect(() => parseNet(second, parseNet(first, undefined))).toThrow(message);
  });
});

describe('"--console virtio"', () => {
  test.each([
    ['virtio', { kind: 'stdio', virtio: true }],
    ['virtio,stdio', { kind: 'stdio', virtio: true }],
    ['virtio,null', { kind: 'null', virtio: true }],
    ['virtio,file=a,b', { kind: 'file', path: 'a,b', virtio: true }],
    ['file=virtio', { kind: 'file', path: 'virtio' }],
  ])('%s', (text, target) => {
    expect(parseConsoleTarget(text)).toEqual(target);
  });

  test.each(['virtio,', 'virtio=', 'virtio,virtio', 'hvc0', 'virtio,file='])('%j is refused', (text) => {
    expect(() => parseConsoleTarget(text)).toThrow(/^--console: takes /);
  });

  test('the default command lines name hvc0; one that somebody typed is left alone', () => {
    const guest = { kernel: 'k', initrd: 'i', cmdline: 'console=ttyS0 quiet' };
    const console = parseConsoleTarget('virtio');
    const surroundings = { guest, terminalSize: undefined };
    expect(vmConfig(request({ console }), surroundings)).toMatchObject({
      console: 'virtio',
      cmdline: 'console=hvc0 quiet',
    });
    expect(vmConfig(request({ console, cmdline: 'console=ttyS0' }), surroundings).cmdline).toBe('console=ttyS0');
    expect(vmConfig(request({}), surroundings)).toMatchObject({ console: 'serial', cmdline: 'console=ttyS0 quiet' });
    const own = { guest: undefined, terminalSize: undefined };
    expect(vmConfig(request({ console, kernel: 'k' }), own).cmdline).toBe('console=hvc0');
  });
});

describe('"--guest stock|small"', () => {
  const host = { hardware: true, apt: true, ready: [] };

  test('"On hosts with hardware virtualization stock is the default; on the PVM host small is"', () => {
    expect(chooseGuest({}, host)).toBe('stock');
    expect(chooseGuest({}, { ...host, hardware: false })).toBe('small');
    // Whatever is in the cache.
    expect(chooseGuest({}, { ...host, hardware: false, ready: ['stock'] })).toBe('small');
  });

  test('"so that a user there waits seconds and not a kernel build": what is ready is taken', () => {
    expect(chooseGuest({}, { ...host, ready: ['small'] })).toBe('small');
    expect(chooseGuest({}, { ...host, ready: ['small', 'stock'] })).toBe('stock');
    expect(chooseGuest({}, { ...host, apt: false })).toBe('small');
    expect(chooseGuest({ kernelSource: 's' }, host)).toBe('small');
  });

  test('who asks gets what was asked for', () => {
    expect(chooseGuest({ guest: 'stock' }, { hardware: false, apt: false, ready: ['small'] })).toBe('stock');
    expect(chooseGuest({ guest: 'small' }, host)).toBe('small');
    expect(parseGuest('stock')).toBe('stock');
    for (const text of ['', 'Stock', 'debian'])
      expect(() => parseGuest(text)).toThrow(/^--guest: takes stock or small/);
  });

  test('"Conflicts with --kernel"', () => {
    expect(() => request({ guest: 'small', kernel: 'k' })).toThrow(/^--guest: .*--kernel/);
    expect(() => request({ guest: 'stock', kernelSource: 's' })).toThrow(/^--kernel-source: .*--guest stock/);
    expect(() => request({ guest: 'small', kernelSource: 's' })).not.toThrow();
  });
});

describe('the configuration', () => {
  const guest = { kernel: 'k', initrd: 'i', cmdline: 'console=ttyS0' };

  test('entropy: "default on for the default guest"', () => {
    const without = { guest: undefined, terminalSize: undefined };
    expect(vmConfig(request({}), { guest, terminalSize: undefined }).entropy).toBe(true);
    expect(vmConfig(request({ entropy: false }), { guest, terminalSize: undefined }).entropy).toBe(false);
    expect(vmConfig(request({ kernel: 'k' }), without).entropy).toBe(false);
    expect(vmConfig(request({ kernel: 'k', entropy: true }), without).entropy).toBe(true);
  });

  test('the library takes whatever the options give', () => {
    const nets = ['user,forward=1:2', 'tap=a,mac=02:00:00:00:00:01', 'switch=s,pcap=p'].reduce(
      (before: ReturnType<typeof parseNet> | undefined, text) => parseNet(text, before),
      undefined,
    );
    const disks = [parseDisk('a,ro,id=x'), parseDisk('b,overlay=c,bps=1T,iops=1099511627776')];
    const config = vmConfig(request({ disks, ...(nets === undefined ? {} : { nets }) }), {
      guest,
      terminalSize: undefined,
    });
    const complete = completeConfig(config);
    expect(complete.disks).toMatchObject(disks);
    expect(complete.nets).toMatchObject(nets ?? []);
  });
});

describe('sizes', () => {
  test.each([
    ['1M', 2 ** 20],
    ['1048576', 2 ** 20],
    ['64m', 64 * 2 ** 20],
    ['2K', undefined],
    ['3000320', 3_000_320],
    ['3000000', undefined],
    ['16T', 16 * 2 ** 40],
    ['17T', undefined],
    ['64MB', undefined],
    ['0x100000', undefined],
    ['1.5G', undefined],
    ['', undefined],
    [' 1M', undefined],
    ['99999999999999999999T', undefined],
  ])('%j is %s bytes', (text, bytes) => {
    if (bytes === undefined) expect(() => parseNumber(SIZE_ROW, text)).toThrow(/^--size: takes .* from 1M to 16T/);
    else expect(parseNumber(SIZE_ROW, text)).toBe(bytes);
  });

  test('the ends of the other numbers', () => {
    for (const row of [...Object.values(RATE_ROWS), PORT_ROW]) {
      expect(parseNumber(row, String(row.low))).toBe(row.low);
      expect(parseNumber(row, String(row.high))).toBe(row.high);
      expect(() => parseNumber(row, String(row.high + 1))).toThrow(UsageError);
    }
  });
});
