// The options of `microvisor run`: what each row makes of its value, and which cannot go together.
import { describe, expect, test } from 'vitest';
import { completeConfig, LIMITS } from '../../../src/machine/config.js';
import { vmConfig } from '../../../src/cli/config-from-request.js';
import { completeRequest, needsBoot, NUMBER_ROWS, OPTION_ROWS, type RunRequest } from '../../../src/cli/run-options.js';
import { UsageError } from '../../../src/cli/usage-error.js';

type Options = Partial<Omit<RunRequest, 'command'>>;

/** Parses as commander would call the rows. */
function parse(words: readonly (readonly [string, string?])[], command?: readonly string[]): RunRequest {
  let options: Options = {};
  for (const [name, value = ''] of words) {
    const row = OPTION_ROWS.find(({ flags }) => flags.split(' ')[0] === name);
    if (row === undefined) throw new Error(`no row for ${name}`);
    options = { ...options, ...row.parse(value, options) };
  }
  return completeRequest(options, command);
}

describe('values', () => {
  test('"--mem default 128, --cpus default 1"', () => {
    expect(parse([])).toEqual({ memoryMiB: 128, cpus: 1 });
  });

  test('every option reaches the request', () => {
    const request = parse([
      ['--kernel', 'k'],
      ['--initrd', 'i'],
      ['--cmdline', 'a b'],
      ['--append', 'c'],
      ['--append', 'd'],
      ['--entry', 'long'],
      ['--load', '0x200000'],
      ['--mem', '64'],
      ['--cpus', '2'],
      ['--firmware', 'acpi'],
      ['--console', 'file=a=b'],
      ['--mergeable'],
      ['--huge-pages'],
      ['--timeout', '1.5'],
      ['--report', 'r'],
      ['--verbose'],
    ]);
    expect(request).toEqual({
      kernel: 'k',
      initrd: 'i',
      cmdline: 'a b',
      append: 'c d',
      entry: 'long',
      load: 0x200000,
      memoryMiB: 64,
      cpus: 2,
      firmware: 'acpi',
      console: { kind: 'file', path: 'a=b' },
      mergeable: true,
      hugePages: true,
      timeoutMs: 1500,
      report: 'r',
      verbose: true,
    });
  });

  test('the limits are those of the library', () => {
    expect([NUMBER_ROWS.mem.low, NUMBER_ROWS.mem.high]).toEqual(LIMITS.memoryMiB);
    expect([NUMBER_ROWS.cpus.low, NUMBER_ROWS.cpus.high]).toEqual(LIMITS.cpus);
  });

  test('a timeout longer than a timer can wait is refused, not cut to nothing', () => {
    const longest = String(NUMBER_ROWS.timeout.high);
    expect(parse([['--timeout', longest]]).timeoutMs).toBeLessThan(2 ** 31);
    expect(() => parse([['--timeout', String(2 ** 31)]])).toThrow(/--timeout/);
  });

  test.each([
    ['--console', ''],
    ['--console', 'file='],
    ['--console', 'file'],
    ['--console', 'stdout'],
    ['--console', 'null '],
    ['--entry', 'flat'],
    ['--entry', ''],
    ['--firmware', 'uefi'],
    ['--kernel', ''],
    ['--initrd', ''],
    ['--report', ''],
    ['--kernel-source', ''],
  ])('%s %j is refused, and the message names the option', (option, value) => {
    expect(() => parse([[option, value]])).toThrow(new RegExp(`^${option}: takes `));
  });
});

describe('"options that conflict are refused"', () => {
  const conflicts: readonly [string, readonly (readonly [string, string?])[], readonly string[] | undefined, RegExp][] =
    [
      [
        '--load without --entry',
        [
          ['--kernel', 'k'],
          ['--load', '4096'],
        ],
        undefined,
        /^--load: .*--entry real/,
      ],
      [
        '--load with an entry that is not flat',
        [
          ['--kernel', 'k'],
          ['--entry', 'pvh'],
          ['--load', '4096'],
        ],
        undefined,
        /^--load/,
      ],
      ['--entry without --kernel', [['--entry', 'real']], undefined, /^--entry: .*--kernel/],
      ['COMMAND with --kernel', [['--kernel', 'k']], ['ls'], /^COMMAND: .*default guest/],
      ['COMMAND with --initrd', [['--initrd', 'i']], ['ls'], /^COMMAND: .*--initrd/],
      ['COMMAND with --console stdio', [['--console', 'stdio']], ['ls'], /^--console stdio: /],
      ['-- with nothing after it', [], [], /^COMMAND: nothing follows/],
      [
        '--kernel-source with --kernel',
        [
          ['--kernel', 'k'],
          ['--kernel-source', 's'],
        ],
        undefined,
        /^--kernel-source/,
      ],
    ];

  test.each(conflicts)('%s', (_, words, command, message) => {
    expect(() => parse(words, command)).toThrow(UsageError);
    expect(() => parse(words, command)).toThrow(message);
  });

  test('"--cmdline + --append allowed: append is added"', () => {
    const request = parse([
      ['--kernel', 'k'],
      ['--cmdline', 'root=/dev/vda'],
      ['--append', 'ro'],
    ]);
    expect(vmConfig(request, { guest: undefined, terminalSize: undefined }).cmdline).toBe('root=/dev/vda ro');
  });
});

describe('the configuration', () => {
  const guest = { kernel: '/g/vmlinux', initrd: '/g/initrd', cmdline: 'console=ttyS0 quiet panic=-1' };
  const here = { guest, terminalSize: { columns: 80, rows: 24 } };
  const without = { guest: undefined, terminalSize: { columns: 80, rows: 24 } };

  test('"With --kernel the command line is console=ttyS0 unless --cmdline says otherwise"', () => {
    const request = parse([['--kernel', 'k']]);
    expect(vmConfig(request, without)).toMatchObject({
      kernel: 'k',
      cmdline: 'console=ttyS0',
      appendQuirkOptions: false,
    });
    expect(
      vmConfig(
        parse([
          ['--kernel', 'k'],
          ['--cmdline', ''],
        ]),
        without,
      ).cmdline,
    ).toBe('');
  });

  test('the default guest’s agent starts the shell, on a terminal of this size; quirk options for that guest only', () => {
    expect(vmConfig(parse([]), here)).toMatchObject({
      kernel: '/g/vmlinux',
      initrd: '/g/initrd',
      cmdline: 'console=ttyS0 quiet panic=-1',
      exec: { shell: { columns: 80, rows: 24 } },
      appendQuirkOptions: true,
      consoleOverflow: 'wait',
    });
    expect(vmConfig(parse([['--cmdline', 'x']]), here).cmdline).toBe('x');
  });

  test('--verbose shows the boot messages of the default guest', () => {
    expect(vmConfig(parse([['--verbose']]), { guest, terminalSize: undefined }).cmdline).toBe('console=ttyS0 panic=-1');
  });

  test('a guest that is another one, is watched while it boots, or has disks or networks, has to boot', () => {
    expect(needsBoot(parse([]))).toBe(false);
    expect(
      needsBoot(
        parse([
          ['--mem', '256'],
          ['--cpus', '2'],
          ['--append', 'x'],
          ['--console', 'virtio'],
        ]),
      ),
    ).toBe(false);
    const booted: readonly (readonly [string, string?])[] = [
      ['--kernel', 'k'],
      ['--initrd', 'i'],
      ['--cmdline', 'x'],
      ['--disk', 'd'],
      ['--net', 'user'],
      ['--gdb', '1234'],
      ['--trace', 't'],
      ['--verbose'],
      ['--snapshot-at', 'x'],
      ['--console', 'file=x'],
    ];
    for (const option of booted) expect([option, needsBoot(parse([option]))]).toEqual([option, true]);
  });

  test('an initrd of the user goes with the default kernel', () => {
    const config = vmConfig(parse([['--initrd', 'mine']]), here);
    expect(config).toMatchObject({ kernel: '/g/vmlinux', initrd: 'mine' });
    expect(config.exec).toBeUndefined();
  });

  test('nobody reads the boot messages of a COMMAND, so they must not stall it', () => {
    expect(vmConfig(parse([], ['ls', '-l']), here)).toMatchObject({
      exec: { argv: ['ls', '-l'] },
      consoleOverflow: 'drop',
    });
    expect(vmConfig(parse([['--console', 'null']]), here).consoleOverflow).toBe('drop');
    expect(vmConfig(parse([['--console', 'file=x']], ['ls']), here).consoleOverflow).toBe('wait');
  });

  test('the library takes whatever the options give', () => {
    for (const request of [
      parse([]),
      parse([], ['ls']),
      parse([
        ['--kernel', 'k'],
        ['--entry', 'real'],
        ['--load', '512'],
      ]),
    ])
      expect(() => completeConfig(vmConfig(request, here))).not.toThrow();
  });
});
