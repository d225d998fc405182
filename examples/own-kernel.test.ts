// A suite for a kernel of one's own, as a course on operating systems would have it: boot once, fork per test.
// Run by `node --test`, or whatever runner you use.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { bootKernel, type Bench } from 'microvisor/testing';

/** Prints "ready", then echoes what is typed and counts it at 0x1000; q ends it with status 3. */
const KERNEL = `
        .code16
start:  mov     $0x3f8, %dx             # COM1: data
        mov     $greeting, %si
print:  lodsb
        test    %al, %al
        jz      wait
        out     %al, %dx
        jmp     print
wait:   mov     $0x3fd, %dx             # line status: is there a byte?
        in      %dx, %al
        test    $1, %al
        jz      wait
        mov     $0x3f8, %dx
        in      %dx, %al
        cmp     $'q', %al
        je      quit
        incw    0x1000
        out     %al, %dx
        jmp     wait
quit:   mov     $1, %al
        out     %al, $0xf4              # ends the machine with status (1 << 1) | 1
greeting:
        .asciz  "ready\\n"
`;

const folder = mkdtempSync(join(tmpdir(), 'own-kernel-'));
let bench: Bench;

before(async () => {
  const [source, object, image] = ['kernel.S', 'kernel.o', 'kernel.bin'].map((name) => join(folder, name)) as [
    string,
    string,
    string,
  ];
  writeFileSync(source, KERNEL);
  execFileSync('as', ['--32', '-o', object, source]);
  execFileSync('ld', ['-m', 'elf_i386', '-Ttext=0x7c00', '--oformat=binary', '-e', '0x7c00', '-o', image, object]);
  bench = await bootKernel({ kernel: image, entry: 'real', memoryMiB: 1, until: 'ready\n' });
});
after(async () => {
  await bench[Symbol.asyncDispose]();
  rmSync(folder, { recursive: true });
});

test('echoes what is typed, and counts it', async () => {
  await using guest = await bench.fork();
  guest.send('abc');
  await guest.until('abc');
  await guest.vm.pause();
  assert.equal(guest.memory.readU16(0x1000), 3);
});

test('starts from nothing in each test', async () => {
  await using guest = await bench.fork();
  guest.send('x');
  await guest.until('x');
  await guest.vm.pause();
  assert.equal(guest.memory.readU16(0x1000), 1);
});

test('q ends it, and nothing is printed for it', async () => {
  await using guest = await bench.fork();
  guest.send('q');
  assert.deepEqual(await guest.ended(), { kind: 'debug-exit', value: 1 });
  assert.equal(guest.console, '');
  const printed = guest.exits.ports.find(({ port, direction }) => port === 0x3f8 && direction === 'out');
  assert.equal(printed, undefined);
});
