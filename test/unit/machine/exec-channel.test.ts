// The exec channel's streams: src/machine/exec-channel.ts, with a line whose other end the test is.
import { describe, expect, it } from 'vitest';
import { ExecChannel } from '../../../src/machine/exec-channel.js';
import { ExecFrame } from '../../../src/machine/exec-protocol.js';
import type { SerialLine } from '../../../src/machine/serial-streams.js';

class TestLine implements SerialLine {
  isPaused = false;
  print: (bytes: Uint8Array) => void = () => undefined;

  onOutput(callback: (bytes: Uint8Array) => void): void {
    this.print = callback;
  }
  onWritable(): void {
    // It takes all at once.
  }
  write(bytes: Uint8Array): number {
    return bytes.length;
  }
  pause(): void {
    this.isPaused = true;
  }
  resume(): void {
    this.isPaused = false;
  }
}

/** guests/linux/init/protocol.h: type, length, payload. */
function frame(type: number, payload: Uint8Array): Buffer {
  const head = Buffer.from([type, 0, 0]);
  head.writeUInt16LE(payload.length, 1);
  return Buffer.concat([head, payload]);
}

const READY = frame(ExecFrame.READY, Buffer.from([...Buffer.from('MVX'), 3, 0, 16, 0, 0]));
const EXITED = frame(ExecFrame.EXIT, Buffer.from([0, 0]));
const OUTPUT = frame(ExecFrame.STDOUT, Buffer.alloc(4096, 'y'));

describe('what the command prints', () => {
  it.each(['while the guest is stalled', 'before it is'])(
    'nobody reads any more, %s: it runs to its end',
    async (when) => {
      const line = new TestLine();
      const channel = new ExecChannel(line);
      line.print(READY);
      await channel.ready;
      const printUntilStalled = (): void => {
        for (let i = 0; i < 1000 && !line.isPaused; i++) line.print(OUTPUT);
      };
      if (when === 'before it is') line.print(OUTPUT);
      else printUntilStalled();
      expect(line.isPaused).toBe(when !== 'before it is');
      for await (const bytes of channel.stdout) {
        expect((bytes as Buffer).length).toBeGreaterThan(0);
        break;
      }
      printUntilStalled();
      expect(line.isPaused).toBe(false);
      line.print(EXITED);
      expect(await channel.ended).toEqual({ status: 0, message: undefined });
      channel.close();
    },
  );
});
