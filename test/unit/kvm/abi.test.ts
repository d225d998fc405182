// Holds every structure, ioctl number and constant of src/kvm to the host's own headers, by asking a C compiler.
// <linux/kvm.h>, <asm/kvm.h>.
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { beforeAll, expect, test } from 'vitest';
import * as abi from '../../../src/kvm/abi.js';
import {
  COALESCED_RING_ENTRIES,
  COALESCED_RING_OFFSET,
  COALESCED_RING_STRIDE,
  KVM_RUN_OFFSET,
  KVM_RUN_SIZE,
} from '../../../src/kvm/kvm-run.js';
import type { Rows, Struct } from '../../../src/memory/struct.js';

const answers = new Map<string, number>();

const structs = Object.values(abi).filter((value): value is Struct<Rows> & typeof value => typeof value === 'object');
const constants = Object.entries(abi).filter((entry): entry is [string, number] => typeof entry[1] === 'number');
const fieldSizes: Readonly<Record<string, number>> = { u8: 1, u16: 2, u32: 4, i32: 4, u64: 8, i64: 8 };
const runMembers = [...flatten(KVM_RUN_OFFSET)];
const ring = 'struct kvm_coalesced_mmio_ring';

function* flatten(tree: object, prefix = ''): Generator<[string, number]> {
  for (const [name, value] of Object.entries(tree)) {
    if (typeof value === 'number') yield [prefix + name, value];
    else yield* flatten(value as object, `${prefix}${name}.`);
  }
}

beforeAll(() => {
  const lines: string[] = [];
  const ask = (key: string, expression: string): void => {
    lines.push(`printf("%s %llu\\n", "${key}", (unsigned long long)(${expression}));`);
  };
  for (const { name, rows } of structs) {
    ask(name, `sizeof(struct ${name})`);
    for (const member of Object.keys(rows)) {
      ask(`${name}.${member}`, `offsetof(struct ${name}, ${member})`);
      ask(`sizeof ${name}.${member}`, `sizeof(((struct ${name} *)0)->${member})`);
    }
  }
  for (const [name] of constants)
    lines.push(`#ifdef ${name}`, `printf("%s %u\\n", "${name}", (unsigned)(${name}));`, '#endif');
  for (const [member] of runMembers) ask(`kvm_run.${member}`, `offsetof(struct kvm_run, ${member})`);
  ask('kvm_run', 'sizeof(struct kvm_run)');
  ask('ring entries', `offsetof(${ring}, coalesced_mmio)`);
  ask('ring stride', 'sizeof(struct kvm_coalesced_mmio)');
  ask('ring count', `(4096 - sizeof(${ring})) / sizeof(struct kvm_coalesced_mmio)`);

  const folder = mkdtempSync(join(tmpdir(), 'microvisor-abi-'));
  try {
    const source = join(folder, 'abi.c');
    const program = join(folder, 'abi');
    const headers = ['<linux/kvm.h>', '<stddef.h>', '<stdio.h>'].map((header) => `#include ${header}`);
    writeFileSync(source, [...headers, 'int main(void) {', ...lines, 'return 0; }'].join('\n'));
    execFileSync('gcc', ['-o', program, source]);
    for (const line of execFileSync(program, { encoding: 'utf8' }).trim().split('\n')) {
      const at = line.lastIndexOf(' ');
      answers.set(line.slice(0, at), Number(line.slice(at + 1)));
    }
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test('every table has the size, offsets and field sizes of its C structure', () => {
  const ours = new Map<string, number>();
  for (const { name, size, rows } of structs) {
    ours.set(name, size);
    for (const [member, [offset, type]] of Object.entries(rows)) {
      ours.set(`${name}.${member}`, offset);
      ours.set(`sizeof ${name}.${member}`, fieldSizes[type] ?? Number(type.slice('bytes'.length)));
    }
  }
  expect(structs.length).toBeGreaterThan(20);
  const theirs = new Map([...ours.keys()].map((key) => [key, answers.get(key)]));
  expect([...ours]).toEqual([...theirs]);
});

test('every constant that the header has is the same here', () => {
  const known = constants.filter(([name]) => answers.has(name));
  expect(known.length).toBeGreaterThan(200);
  expect(known).toEqual(known.map(([name]) => [name, answers.get(name)]));
});

test('the header of this host knows every ioctl number', () => {
  const numbers = constants.filter(([, value]) => value >= 0xae00 && ((value >> 8) & 0xff) === 0xae);
  expect(numbers.length).toBeGreaterThan(50);
  expect(numbers.filter(([name]) => !answers.has(name))).toEqual([]);
});

test('KVM_RUN_OFFSET names the offsets of struct kvm_run', () => {
  expect(runMembers).toEqual(runMembers.map(([member]) => [member, answers.get(`kvm_run.${member}`)]));
  expect(KVM_RUN_SIZE).toBe(answers.get('kvm_run'));
});

test('the coalesced ring lies as the header says', () => {
  expect(COALESCED_RING_OFFSET.base).toBe(abi.KVM_COALESCED_MMIO_PAGE_OFFSET * 4096);
  expect(COALESCED_RING_OFFSET.entries - COALESCED_RING_OFFSET.base).toBe(answers.get('ring entries'));
  expect(COALESCED_RING_STRIDE).toBe(answers.get('ring stride'));
  expect(COALESCED_RING_ENTRIES).toBe(answers.get('ring count'));
});
