// The exec protocol's host side: decoding in any pieces, encoding within credit.
// guests/linux/init/protocol.h.

import { readFileSync } from 'node:fs';
import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  EXEC_MAX_BLOCK,
  EXEC_MAX_PAYLOAD,
  ExecDecoder,
  ExecEncoder,
  ExecFrame,
  exitStatus,
  type ExecEvent,
} from '../../../src/machine/exec-protocol.js';

const READY = Buffer.from([0x01, 8, 0, 0x4d, 0x56, 0x58, 3, 0x00, 0x20, 0, 0]);

function frameOf(type: number, payload: Uint8Array): Buffer {
  return Buffer.concat([Buffer.from([type, payload.length & 0xff, payload.length >> 8]), payload]);
}

/** Splits what the encoder sends into type and payload. */
function framesOf(bytes: Buffer): { type: number; payload: Buffer }[] {
  const frames = [];
  for (let at = 0; at < bytes.length;) {
    const length = bytes.readUInt16LE(at + 1);
    frames.push({ type: bytes.readUInt8(at), payload: bytes.subarray(at + 3, at + 3 + length) });
    at += 3 + length;
  }
  return frames;
}

function decodeAll(stream: Buffer, cuts: readonly number[]): ExecEvent[] {
  const decoder = new ExecDecoder();
  const events: ExecEvent[] = [];
  let at = 0;
  for (const cut of [...cuts, stream.length]) {
    events.push(...decoder.push(stream.subarray(at, Math.max(at, cut))));
    at = Math.max(at, cut);
  }
  return events;
}

describe('ExecDecoder', () => {
  const stream = Buffer.concat([
    READY,
    frameOf(ExecFrame.STDOUT, Buffer.from([0, 1, 0xff])),
    frameOf(ExecFrame.STDERR, Buffer.from('oops')),
    frameOf(ExecFrame.CREDIT, Buffer.from([0, 8, 0, 0])),
    frameOf(ExecFrame.STDOUT, Buffer.alloc(EXEC_MAX_PAYLOAD, 7)),
    frameOf(ExecFrame.ERROR, Buffer.from('nope: No such file or directory')),
    frameOf(ExecFrame.EXIT, Buffer.from([1, 9])),
  ]);
  const events: ExecEvent[] = [
    { kind: 'ready', credit: 8192 },
    { kind: 'stdout', data: Buffer.from([0, 1, 0xff]) },
    { kind: 'stderr', data: Buffer.from('oops') },
    { kind: 'credit', credit: 2048 },
    { kind: 'stdout', data: Buffer.alloc(EXEC_MAX_PAYLOAD, 7) },
    { kind: 'error', message: 'nope: No such file or directory' },
    { kind: 'exit', how: 'signalled', value: 9 },
  ];

  it('gives each frame of the guest as an event', () => {
    expect(decodeAll(stream, [])).toEqual(events);
  });

  it('"any cut of the stream into reads gives the same frames"', () => {
    expect(
      decodeAll(
        stream,
        Array.from({ length: stream.length }, (_, i) => i),
      ),
    ).toEqual(events);
    fc.assert(
      fc.property(fc.array(fc.nat(stream.length), { maxLength: 20 }), (cuts) => {
        expect(
          decodeAll(
            stream,
            cuts.toSorted((a, b) => a - b),
          ),
        ).toEqual(events);
      }),
      { numRuns: 50 },
    );
  });

  it('skips what the line carried before READY, in any pieces', () => {
    const noise = Buffer.from([0xff, 0x01, 8, 0, 0x4d, 0x01, 0x01, 8]);
    const noisy = Buffer.concat([noise, stream]);
    for (let cut = 0; cut <= noise.length + READY.length; cut++) expect(decodeAll(noisy, [cut])).toEqual(events);
  });

  it.each([
    ['a frame longer than the protocol has', Buffer.from([ExecFrame.STDOUT, 1, 0x10]), /frame of 4097 bytes/],
    ['a type that is none', frameOf(0x55, Buffer.alloc(0)), /type 0x55/],
    ['an EXIT of the wrong size', frameOf(ExecFrame.EXIT, Buffer.from([0])), /type 0x5 with 1 bytes/],
    ['a CREDIT of the wrong size', frameOf(ExecFrame.CREDIT, Buffer.from([0])), /type 0x4/],
  ])('throws on %s', (_, bytes, message) => {
    const decoder = new ExecDecoder();
    decoder.push(READY);
    expect(() => decoder.push(bytes)).toThrow(message);
  });

  it('names the version that it does not speak', () => {
    const other = Buffer.from(READY);
    other[6] = 9;
    expect(() => new ExecDecoder().push(other)).toThrow(/version 9 .* not 3/);
  });
});

describe('ExecEncoder', () => {
  it('sends nothing before READY has granted credit', () => {
    const encoder = new ExecEncoder();
    expect(encoder.start({ argv: ['true'] })).toHaveLength(0);
    expect(encoder.pending).toBe(5);
    expect(framesOf(encoder.grant(100)).map(({ type }) => type)).toEqual([ExecFrame.ARGS, ExecFrame.START]);
    expect(encoder.credit).toBe(95);
  });

  it('sends arguments, environment and directory as blocks of NUL-terminated words', () => {
    const encoder = new ExecEncoder();
    encoder.grant(1000);
    const sent = encoder.start({ argv: ['sh', '-c', ''], env: { A: '1', B: 'ü' }, cwd: '/tmp' });
    expect(framesOf(sent)).toEqual([
      { type: ExecFrame.ARGS, payload: Buffer.from('sh\0-c\0\0') },
      { type: ExecFrame.ENV, payload: Buffer.from('A=1\0B=ü\0') },
      { type: ExecFrame.CWD, payload: Buffer.from('/tmp') },
      { type: ExecFrame.START, payload: Buffer.alloc(0) },
    ]);
  });

  it('"payload bytes never exceed the credit that was granted in sum", and arrive whole and in order', () => {
    fc.assert(
      fc.property(
        fc.array(fc.oneof(fc.uint8Array({ maxLength: 9000 }), fc.nat(5000)), { maxLength: 30 }),
        (steps: (Uint8Array | number)[]) => {
          const encoder = new ExecEncoder();
          const given: Uint8Array[] = [];
          const taken: Buffer[] = [];
          let credit = 0;
          const take = (bytes: Buffer): void => {
            for (const { type, payload } of framesOf(bytes)) {
              expect(type).toBe(ExecFrame.STDIN);
              expect(payload.length).toBeLessThanOrEqual(EXEC_MAX_PAYLOAD);
              credit -= payload.length;
              taken.push(payload);
            }
            expect(credit).toBeGreaterThanOrEqual(0);
          };
          for (const step of steps) {
            if (typeof step === 'number') {
              credit += step;
              take(encoder.grant(step));
            } else {
              given.push(step);
              take(encoder.stdin(step));
            }
          }
          credit += encoder.pending;
          take(encoder.grant(encoder.pending));
          expect(Buffer.concat(taken).equals(Buffer.concat(given))).toBe(true);
        },
      ),
      { numRuns: 50 },
    );
  });

  it('the time and fresh random numbers come before what is to run, a shell knows its terminal', () => {
    const encoder = new ExecEncoder();
    encoder.shell({ columns: 132, rows: 50 });
    encoder.clock(1_700_000_000_000_000_001n);
    encoder.seed(Buffer.alloc(32, 7));
    expect(framesOf(encoder.grant(100))).toEqual([
      { type: ExecFrame.SEED, payload: Buffer.alloc(32, 7) },
      { type: ExecFrame.CLOCK, payload: Buffer.from('01002a36fe9c9717', 'hex') },
      { type: ExecFrame.SHELL, payload: Buffer.from([132, 0, 50, 0]) },
    ]);
    expect(framesOf(encoder.shell(undefined))).toEqual([{ type: ExecFrame.SHELL, payload: Buffer.alloc(4) }]);
  });

  it('sends the end of stdin behind all of stdin, and signals at once', () => {
    const encoder = new ExecEncoder();
    encoder.grant(2);
    expect(framesOf(encoder.stdin(Buffer.from('abc')))).toHaveLength(1);
    expect(encoder.stdinEnd()).toHaveLength(0);
    expect(framesOf(encoder.signal(15))).toEqual([{ type: ExecFrame.SIGNAL, payload: Buffer.from([15]) }]);
    expect(framesOf(encoder.grant(8)).map(({ type }) => type)).toEqual([ExecFrame.STDIN, ExecFrame.STDIN_EOF]);
  });

  it.each([
    ['no command', { argv: [] }, /no command/],
    ['an empty command', { argv: [''] }, /no command/],
    ['a NUL in an argument', { argv: ['a', 'b\0c'] }, /arguments have a NUL byte in "b\\u0000c"/],
    ['too long arguments', { argv: ['a'.repeat(EXEC_MAX_BLOCK)] }, /take 131073 bytes; the guest takes 131072/],
    ['too long a directory', { argv: ['a'], cwd: 'a'.repeat(EXEC_MAX_PAYLOAD) }, /directory has 4096 bytes/],
  ])('refuses %s before anything is sent', (_, command, message) => {
    expect(() => new ExecEncoder().start(command)).toThrow(message);
  });
});

describe('exitStatus', () => {
  it("is the command's own status, or 128 + n for signal n", () => {
    expect(exitStatus({ how: 'exited', value: 3 })).toBe(3);
    expect(exitStatus({ how: 'signalled', value: 15 })).toBe(143);
  });
});

describe('protocol.h', () => {
  it('"both files carry the same numbers"', () => {
    const header = readFileSync(new URL('../../../../guests/linux/init/protocol.h', import.meta.url), 'utf8');
    const inHeader = Object.fromEntries(
      [...header.matchAll(/^ {2}EXEC_(\w+) = (0x[0-9a-f]+),/gm)].map((m) => [m[1], Number(m[2])]),
    );
    expect(inHeader).toEqual(ExecFrame);
    expect(header).toContain(`#define EXEC_MAX_PAYLOAD ${EXEC_MAX_PAYLOAD}\n`);
    expect(header).toContain(`#define EXEC_MAX_BLOCK ${EXEC_MAX_BLOCK}\n`);
  });
});
