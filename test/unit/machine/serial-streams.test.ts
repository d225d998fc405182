// The console's streams: nothing is lost, doubled or kept without bound, whoever is behind.
// Hostile case 25: "memory grows by at most 16 MiB; no vCPU stalls unless so configured; lost bytes counted".
import { describe, expect, test } from 'vitest';
import { SerialInput, SerialOutput, type SerialLine } from '../../../src/machine/serial-streams.js';
import { memoryInUse } from '../../support/memory-use.js';

const MIB = 1 << 20;

class TestLine implements SerialLine {
  isPaused = false;
  /** How many bytes of input fit. */
  room = 0;
  readonly input: number[] = [];
  print: (bytes: Uint8Array) => void = () => undefined;
  drained: () => void = () => undefined;

  onOutput(callback: (bytes: Uint8Array) => void): void {
    this.print = callback;
  }
  onWritable(callback: () => void): void {
    this.drained = callback;
  }
  write(bytes: Uint8Array): number {
    const count = Math.min(this.room, bytes.length);
    this.room -= count;
    this.input.push(...bytes.subarray(0, count));
    return count;
  }
  pause(): void {
    this.isPaused = true;
  }
  resume(): void {
    this.isPaused = false;
  }
}

const counted = (length: number, from = 0): Uint8Array => Uint8Array.from({ length }, (_, i) => (from + i) & 0xff);

async function readAll(output: SerialOutput): Promise<Buffer> {
  const pieces: Buffer[] = [];
  for await (const bytes of output) pieces.push(bytes as Buffer);
  return Buffer.concat(pieces);
}

describe('output', () => {
  test('a reader that keeps up gets each piece as it comes', async () => {
    const line = new TestLine();
    const output = new SerialOutput(line, 'drop');
    const pieces: Buffer[] = [];
    output.on('data', (bytes: Buffer) => pieces.push(bytes));
    await new Promise((resolve) => setImmediate(resolve));
    for (let i = 0; i < 100; i++) line.print(counted(64 << 10, i));
    expect(pieces).toHaveLength(100);
    expect(pieces.every((piece, i) => piece.equals(counted(64 << 10, i)))).toBe(true);
    output.end();
  });

  test('a reader that left its loop reads no more, and stalls nobody', async () => {
    const line = new TestLine();
    const output = new SerialOutput(line, 'wait');
    line.print(counted(64 << 10));
    while (!line.isPaused) line.print(counted(64 << 10));
    for await (const bytes of output) {
      expect((bytes as Buffer).length).toBeGreaterThan(0);
      break;
    }
    expect(output.destroyed).toBe(true);
    const { dropped } = output;
    for (let i = 0; i < 100; i++) line.print(counted(64 << 10));
    expect(line.isPaused).toBe(false);
    expect(output.dropped).toBe(dropped + 100 * (64 << 10));
    output.end();
  });

  test('drop: what a late reader gets is the beginning, whole; the rest is counted, and the tap has seen all', async () => {
    const line = new TestLine();
    let seen = 0;
    const output = new SerialOutput(line, 'drop', (bytes) => (seen += bytes.length));
    const total = 3 * MIB;
    for (let at = 0; at < total; at += 1000) line.print(counted(Math.min(1000, total - at), at));
    output.end();
    const read = await readAll(output);
    expect(read.length).toBeGreaterThanOrEqual(MIB);
    expect(read.length).toBeLessThan(2 * MIB);
    expect(read.equals(counted(read.length))).toBe(true);
    expect([read.length + output.dropped, seen, line.isPaused]).toEqual([total, total, false]);
  });

  test('drop: once it was read, the next bytes are kept again', async () => {
    const line = new TestLine();
    const output = new SerialOutput(line, 'drop');
    for (let i = 0; i < 200; i++) line.print(new Uint8Array(16 << 10));
    const lost = output.dropped;
    expect(lost).toBeGreaterThan(0);
    while (output.read() !== null) await new Promise((resolve) => setImmediate(resolve));
    line.print(Buffer.from('still here'));
    output.end();
    expect((await readAll(output)).toString()).toBe('still here');
    expect(output.dropped).toBe(lost);
  });

  test('wait: the line is paused and goes on with the reader; nothing is lost, also what comes after the pause', async () => {
    const line = new TestLine();
    const output = new SerialOutput(line, 'wait');
    let printed = 0;
    const print = (): void => {
      while (!line.isPaused && printed < 8 * MIB) {
        line.print(counted(10_000, printed));
        printed += 10_000;
      }
    };
    print();
    expect(printed).toBeLessThan(2 * MIB);
    line.print(counted(5, printed));
    printed += 5;
    const sum = { read: 0, wrong: 0 };
    output.on('data', (bytes: Buffer) => {
      for (const byte of bytes) if (byte !== (sum.read++ & 0xff)) sum.wrong++;
    });
    while (sum.read < 8 * MIB) {
      await new Promise((resolve) => setImmediate(resolve));
      print();
    }
    expect([sum, output.dropped]).toEqual([{ read: printed, wrong: 0 }, 0]);
    output.end();
  });

  test('a million pieces of one byte are not a million objects', async () => {
    const line = new TestLine();
    const output = new SerialOutput(line, 'drop');
    const before = await memoryInUse();
    for (let i = 0; i < 1_200_000; i++) line.print(Uint8Array.of(i));
    expect((await memoryInUse()) - before).toBeLessThan(16);
    expect(output.dropped).toBeGreaterThan(0);
  });
});

describe('input', () => {
  test('a write is done when the line has taken all of it, in order', async () => {
    const line = new TestLine();
    const input = new SerialInput(line);
    let done = 0;
    input.write(counted(10), () => done++);
    input.write(counted(10, 10), () => done++);
    for (const room of [3, 0, 7, 5]) {
      line.room = room;
      line.drained();
      await new Promise((resolve) => setImmediate(resolve));
    }
    expect([line.input.length, done]).toEqual([15, 1]);
    line.room = 100;
    line.drained();
    await new Promise((resolve) => setImmediate(resolve));
    expect([line.input, done]).toEqual([[...counted(20)], 2]);
    input.destroy();
  });
});
