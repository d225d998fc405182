// The state file of a snapshot: what is written is read back, and what is damaged or made by hand is refused, each time.
import { describe, expect, test } from 'vitest';
import { SnapshotError } from '../../../../src/machine/snapshot/error.js';
import { decodeStateFile, encodeStateFile } from '../../../../src/machine/snapshot/state-file.js';
import { plainSample, sampleState, stateFile } from '../../../support/snapshot-state.js';

const FLIPS = 10_000;

/** The sentence with which a file is refused; anything but a SnapshotError is thrown on. */
function refusal(file: Uint8Array): string | undefined {
  try {
    decodeStateFile(file, 'state');
    return undefined;
  } catch (error) {
    if (error instanceof SnapshotError) return error.message;
    throw error;
  }
}

/** Numbers without a short period, the same in every run. */
function* random(seed: number): Generator<number, never> {
  for (let state = seed; ;) {
    state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0;
    yield state >>> 8;
  }
}

describe('a state file', () => {
  const file = encodeStateFile(sampleState());

  test('gives the state that it was made of', () => {
    expect(decodeStateFile(file, 'state')).toEqual(sampleState());
  });

  test('takes bytes in whatever array they are', () => {
    const state = sampleState();
    const withBuffer = { ...state, pit: Buffer.from(state.pit) };
    expect(decodeStateFile(encodeStateFile(withBuffer), 'state')).toEqual(state);
  });

  test('"Truncation at every byte of the state file … refused every time"', () => {
    for (let length = 0; length < file.length; length++)
      expect(refusal(file.subarray(0, length)), `${length} bytes`).toBeDefined();
  });

  test('with bytes behind its end is refused', () => {
    expect(refusal(Buffer.concat([file, Buffer.alloc(1)]))).toMatch(/should have/);
  });

  test('"10,000 random bit flips in it: refused every time, never a crash"', () => {
    const numbers = random(1);
    for (let i = 0; i < FLIPS; i++) {
      const at = numbers.next().value % file.length;
      const bit = 1 << (numbers.next().value & 7);
      const old = file[at] as number;
      file[at] = old ^ bit;
      expect(refusal(file), `byte ${at} ^ ${bit}`).toBeDefined();
      file[at] = old;
    }
    expect(refusal(file)).toBeUndefined();
  });

  test('"of another format version … a clear error that names it"', () => {
    const body = JSON.stringify(plainSample());
    expect(refusal(stateFile(body, '1'))).toBe(
      'state: the snapshot has format version 1, and this Microvisor reads 2; make it anew',
    );
    expect(refusal(stateFile(body, '02'))).toMatch(/format version 02/);
    expect(refusal(stateFile(body))).toBeUndefined();
  });

  test.each([
    ['nothing', Buffer.alloc(0)],
    ['something else', Buffer.from('#!/bin/sh\n')],
    ['a header without an end', Buffer.from('microvisor-snapshot 2 00000000 5')],
    ['no JSON', stateFile('{')],
    ['no UTF-8', Buffer.from(stateFile('"\u00ff"'))],
  ])('%s is refused', (_, bytes) => {
    expect(refusal(bytes)).toBeDefined();
  });
});

/** Sets what a path of names and indices leads to. */
function change(path: readonly (string | number)[], value: unknown): string {
  const state = plainSample();
  let at = state as Record<string | number, unknown>;
  for (const name of path.slice(0, -1)) at = at[name] as Record<string | number, unknown>;
  const last = path.at(-1) as string | number;
  // An assignment would set the prototype.
  Object.defineProperty(at, last, { value, enumerable: true, configurable: true, writable: true });
  return JSON.stringify(state);
}

describe('"a state file with a valid checksum and hostile values … is treated like guest input"', () => {
  test.each<[string, readonly (string | number)[], unknown]>([
    ['a key that objects have by themselves', ['__proto__'], { config: {} }],
    ['the same further in', ['config', '__proto__'], {}],
    ['another such key', ['config', 'constructor'], 1],
    ['another such key in the registers', ['registers', 'toString'], []],
    ['a field too many', ['config', 'kernel'], '/etc/passwd'],
    ['a field too few', ['config', 'cpus'], undefined],
    ['no memory', ['config', 'memoryMiB'], 0],
    ['memory without end', ['config', 'memoryMiB'], 1e300],
    ['half a processor', ['config', 'cpus'], 1.5],
    ['too many processors', ['config', 'cpus'], 33],
    ['a negative register', ['registers', 'fields', 0, 2], -1],
    ['a register of 33 bits', ['registers', 'fields', 0, 2], 2 ** 32],
    ['a register that is a text', ['registers', 'fields', 0, 2], '5'],
    ['a row of four', ['registers', 'fields', 0], ['a', 'b', 1, 2]],
    ['an area that is no base64', ['registers', 'areas', 0, 2], '!!'],
    ['registers that are too short', ['vcpus', 0, 'rows', 'regs'], 'AAAA'],
    ['a row that no vCPU has', ['vcpus', 0, 'rows', 'secret'], 'AAAA'],
    ['an MSR of 65 bits', ['vcpus', 0, 'msrs', 0, 1], '18446744073709551616'],
    ['an MSR below 0', ['vcpus', 0, 'msrs', 0, 1], '-1'],
    ['a CPUID table that is shorter than its count', ['vcpus', 0, 'cpuid'], Buffer.alloc(47).toString('base64')],
    ['a CPUID table whose count is larger', ['vcpus', 0, 'cpuid'], Buffer.alloc(48, 0xff).toString('base64')],
    ['a TSC that does not tick', ['vcpus', 0, 'tsc', 'khz'], 0],
    ['more vCPUs than there can be', ['vcpus'], Array.from({ length: 33 }, () => ({}))],
    ['a queue of a negative size', ['offers', 0, 'queueSizes', 0], -128],
    ['feature 64', ['offers', 0, 'features', 0], 64],
    ['a RAM file elsewhere', ['ram', 'file'], '../../etc/shadow'],
    ['a run of pages below 0', ['ram', 'extents', 0, 0], -1],
    ['a hash that is none', ['ram', 'hashes', 0, 1], 'x'],
    ['a network card without an address', ['config', 'nets', 0, 'mac'], ''],
    ['a network that there is not', ['config', 'nets', 0, 'backend', 'kind'], 'vhost'],
    ['a frame type of 9 bits', ['exec', 'waiting', 0, 0], 256],
    ['a clock that is no number', ['clock'], 'now'],
    ['a list in place of an object', ['irqchips'], []],
    ['null', ['pit'], null],
  ])('%s is refused', (_, path, value) => {
    expect(refusal(stateFile(change(path, value)))).toMatch(/the file says what no snapshot says/);
  });

  test('nothing of it reaches the prototype of objects', () => {
    refusal(stateFile('{"__proto__":{"polluted":1}}'));
    refusal(stateFile(change(['config', '__proto__'], { polluted: 1 })));
    expect(({} as Record<string, unknown>)['polluted']).toBeUndefined();
  });

  test('depth without end is refused', () => {
    expect(refusal(stateFile('['.repeat(100_000) + ']'.repeat(100_000)))).toBeDefined();
  });
});
