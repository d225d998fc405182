// The small kernel's configuration: rows by version, and the check that names what did not take.
// guests/linux/kernel-config.ts.

import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { checkKernelConfig, formatKernelConfig, parseKernelConfig } from '../../../guests/linux/kernel-config.js';
import { buildFraction } from '../../../guests/linux/small-kernel.js';

const committed = readFileSync(new URL('../../../../guests/linux/kernel.config', import.meta.url), 'utf8');

describe('parseKernelConfig', () => {
  it('"A comment since or until limits the setting on the line after it; both ends are inclusive"', () => {
    const text = '# since 6.9\nCONFIG_NEW=y\n# until 6.8\nCONFIG_OLD=y\nCONFIG_BOTH=n\n';
    const names = (version: string): string[] => parseKernelConfig(text, version).map((row) => row.name);
    expect(names('6.8')).toEqual(['CONFIG_OLD', 'CONFIG_BOTH']);
    expect(names('6.9')).toEqual(['CONFIG_NEW', 'CONFIG_BOTH']);
    expect(names('6.12')).toEqual(['CONFIG_NEW', 'CONFIG_BOTH']);
    expect(names('5.10')).toEqual(['CONFIG_OLD', 'CONFIG_BOTH']);
  });

  it('"Throws on a line that is neither comment nor setting"', () => {
    expect(() => parseKernelConfig('CONFIG_A=y\nSMP=y\n', '6.12')).toThrow(/line 2: "SMP=y" is neither/);
  });

  it('holds no setting twice in the committed configuration', () => {
    for (const version of ['6.1', '6.12']) {
      const names = parseKernelConfig(committed, version).map((row) => row.name);
      expect(new Set(names).size).toBe(names.length);
    }
  });

  it.each(['VIRTIO_MMIO_CMDLINE_DEVICES', 'VIRTIO_BLK', 'VIRTIO_NET', 'VIRTIO_CONSOLE', 'HW_RANDOM_VIRTIO', 'EXT4_FS'])(
    'has %s, which the machine needs, built in',
    (name) => {
      expect(formatKernelConfig(parseKernelConfig(committed, '6.12'))).toContain(`CONFIG_${name}=y\n`);
    },
  );
});

describe('checkKernelConfig', () => {
  const rows = parseKernelConfig('CONFIG_A=y\nCONFIG_B=n\nCONFIG_N=8\nCONFIG_S="x"\n', '6.12');

  it('is silent when every row took; "n" stands for "is not set"', () => {
    expect(checkKernelConfig(rows, 'CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_N=8\nCONFIG_S="x"\n')).toEqual([]);
    expect(checkKernelConfig(rows, 'CONFIG_A=y\nCONFIG_N=8\nCONFIG_S="x"\nCONFIG_MORE=y\n')).toEqual([]);
  });

  it('"One sentence for each row that did not take"', () => {
    expect(checkKernelConfig(rows, '# CONFIG_A is not set\nCONFIG_B=y\nCONFIG_N=64\n')).toEqual([
      'kernel.config line 1: CONFIG_A=y did not take: it is not set',
      'kernel.config line 2: CONFIG_B=n did not take: it is y',
      'kernel.config line 3: CONFIG_N=8 did not take: it is 64',
      'kernel.config line 4: CONFIG_S="x" did not take: it is not set',
    ]);
  });
});

describe('buildFraction', () => {
  it('"grows towards 1 and never passes it", however many lines make prints', () => {
    let before = 0;
    for (let lines = 0; lines < 5000; lines++) {
      const fraction = buildFraction(lines);
      expect(fraction).toBeGreaterThan(before);
      expect(fraction).toBeLessThan(1);
      before = fraction;
    }
  });
});
