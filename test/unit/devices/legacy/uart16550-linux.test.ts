// The 16550A before Linux's driver: its detection, its start, its tests for broken chips, and its interrupt handler.
// Linux 6.1 drivers/tty/serial/8250/8250_port.c, as sequences of register accesses.
import { describe, expect, test } from 'vitest';
import { makeKit, R, type Kit } from './uart-kit.js';

const [RDI, THRI, RLSI] = [1, 2, 4];
const NO_INT = 0x01;

/** serial8250_clear_fifos */
function clearFifos(kit: Kit): void {
  for (const value of [0x01, 0x07, 0x00]) kit.out(R.FCR, value);
}

function clearInterruptRegisters(kit: Kit): void {
  for (const offset of [R.LSR, R.RBR, R.IIR, R.MSR]) kit.in(offset);
}

/** serial8250_handle_irq as far as the registers see it: receives, then sends up to sixteen bytes of `queue`. */
function handleIrq(kit: Kit, queue: number[], received: number[]): boolean {
  if ((kit.in(R.IIR) & NO_INT) !== 0) return false;
  let status = kit.in(R.LSR);
  for (let left = 256; (status & 0x01) !== 0 && left > 0; left--) {
    received.push(kit.in(R.RBR));
    status = kit.in(R.LSR);
  }
  kit.in(R.MSR);
  if ((status & 0x20) !== 0 && (kit.state.fields.IER.get() & THRI) !== 0) {
    for (const byte of queue.splice(0, 16)) kit.out(R.THR, byte);
    if (queue.length === 0) kit.out(R.IER, RDI | RLSI);
  }
  return true;
}

describe('autoconfig', () => {
  test('"Do a simple existence test first": IER keeps its low four bits', () => {
    const kit = makeKit();
    const scratch = kit.in(R.IER);
    kit.out(R.IER, 0);
    const scratch2 = kit.in(R.IER) & 0x0f;
    kit.out(R.IER, 0x0f);
    const scratch3 = kit.in(R.IER) & 0x0f;
    kit.out(R.IER, scratch);
    expect([scratch2, scratch3]).toEqual([0, 0x0f]);
  });

  test('"Check to see if a UART is really there": the loopback test', () => {
    const kit = makeKit();
    kit.out(R.MCR, 0x1a);
    expect(kit.in(R.MSR) & 0xf0).toBe(0x90);
  });

  test('"The IIR top two bits allows us to find out if it\'s 8250 or 16450, 16550, 16550A or later": a 16550A, no variant', () => {
    const kit = makeKit();
    kit.out(R.LCR, 0xbf);
    kit.out(R.FCR, 0);
    kit.out(R.LCR, 0);
    kit.out(R.FCR, 0x01);
    expect(kit.in(R.IIR) >> 6).toBe(3);
    // No EFR: not zero with DLAB set, nor with 0xbf in LCR.
    kit.out(R.LCR, 0x80);
    expect(kit.in(R.IIR)).not.toBe(0);
    kit.out(R.LCR, 0xbf);
    expect(kit.in(R.IIR)).not.toBe(0);
    // No National Semiconductor SuperIO: no bank 2 whose EXCR1 follows MCR's loop bit.
    kit.out(R.LCR, 0);
    const status1 = kit.in(R.MCR);
    kit.out(R.MCR, status1 ^ 0x10);
    kit.out(R.LCR, 0xe0);
    expect((kit.in(R.IIR) ^ status1) & 0x10).toBe(0);
    kit.out(R.LCR, 0);
    kit.out(R.MCR, status1);
    // No TI16750: no 64-byte mode.
    kit.out(R.FCR, 0x21);
    expect(kit.in(R.IIR) >> 5).toBe(6);
    kit.out(R.LCR, 0x80);
    kit.out(R.FCR, 0x21);
    expect(kit.in(R.IIR) >> 5).toBe(6);
    kit.out(R.LCR, 0);
    // No XScale: IER has no UUE.
    kit.out(R.IER, 0x40);
    expect(kit.in(R.IER) & 0x40).toBe(0);
  });

  test('size_fifo: "how many bytes are in the FIFO", by loopback: sixteen', () => {
    const kit = makeKit();
    kit.out(R.FCR, 0x07);
    kit.out(R.MCR, 0x10);
    kit.out(R.LCR, 0x80);
    kit.out(R.DLL, 1);
    kit.out(R.DLM, 0);
    kit.out(R.LCR, 0x03);
    for (let i = 0; i < 256; i++) kit.out(R.THR, i);
    let count = 0;
    for (; (kit.in(R.LSR) & 1) !== 0 && count < 256; count++) kit.in(R.RBR);
    expect(count).toBe(16);
  });
});

describe.each(['drop', 'wait'] as const)('startup, onFull %s', (onFull) => {
  test('"Real 16550s should always reassert this interrupt whenever the transmitter is idle and the interrupt is enabled"', () => {
    const kit = makeKit({ onFull });
    clearFifos(kit);
    clearInterruptRegisters(kit);
    expect(kit.in(R.LSR)).not.toBe(0xff);
    kit.out(R.IER, THRI);
    const iir1 = kit.in(R.IIR);
    kit.out(R.IER, 0);
    expect(kit.pulses(() => kit.out(R.IER, THRI))).toBe(1);
    const iir = kit.in(R.IIR);
    kit.out(R.IER, 0);
    expect([iir1 & NO_INT, iir & NO_INT]).toEqual([0, 0]);
  });

  test('"Do a quick test to see if we receive an interrupt when we enable the TX irq": no UART_BUG_TXEN', () => {
    const kit = makeKit({ onFull });
    kit.out(R.LCR, 0x03);
    kit.out(R.MCR, 0x08);
    kit.out(R.IER, THRI);
    const [lsr, iir] = [kit.in(R.LSR), kit.in(R.IIR)];
    kit.out(R.IER, 0);
    expect([lsr & 0x40, iir & NO_INT]).toEqual([0x40, 0]);
  });

  test('type-ahead survives detection, start, shutdown and start again when RTS holds it', () => {
    const kit = makeKit({ onFull, flowControl: 'rts' });
    const { back } = kit.back();
    back.write(new TextEncoder().encode('echo hello\n'));
    for (let turn = 0; turn < 2; turn++) {
      clearFifos(kit);
      clearInterruptRegisters(kit);
      kit.out(R.MCR, 0x08);
      clearInterruptRegisters(kit);
      clearFifos(kit);
      kit.in(R.RBR);
    }
    kit.out(R.FCR, 0x81);
    kit.out(R.IER, RDI | RLSI);
    expect(kit.pulses(() => kit.out(R.MCR, 0x0b))).toBe(1);
    const received: number[] = [];
    while (handleIrq(kit, [], received));
    expect(String.fromCharCode(...received)).toBe('echo hello\n');
    back.close();
  });

  test('the handler, called once a pulse, sends everything', () => {
    const kit = makeKit({ onFull, txCapacity: onFull === 'wait' ? 64 : 1024 });
    const { back, output } = kit.back();
    kit.out(R.FCR, 0x81);
    kit.out(R.MCR, 0x0b);
    kit.out(R.IER, RDI | RLSI);
    const sent = Array.from({ length: 1000 }, (_, i) => i & 0xff);
    const queue = [...sent];
    let served = kit.irqs;
    kit.out(R.IER, RDI | RLSI | THRI);
    for (let spins = 0; spins < 10_000 && (queue.length > 0 || served < kit.irqs); spins++) {
      // Edge-triggered: without a new pulse the handler is not called. The owner comes by now and then.
      if (served < kit.irqs) {
        served = kit.irqs;
        while (handleIrq(kit, queue, []));
      } else back.drain();
    }
    while (back.drain() > 0);
    expect(queue).toEqual([]);
    expect(output).toEqual(sent);
    back.close();
  });

  test('a console message between: IER is cleared, the message polled out, IER restored, and the interrupt comes', () => {
    const kit = makeKit({ onFull });
    const { back, output } = kit.back();
    kit.out(R.FCR, 0x81);
    kit.out(R.IER, RDI | RLSI | THRI);
    kit.in(R.IIR);
    const ier = kit.in(R.IER);
    kit.out(R.IER, 0);
    for (const byte of [1, 2, 3]) {
      expect(kit.in(R.LSR) & 0x20).toBe(0x20);
      kit.out(R.THR, byte);
    }
    expect(kit.in(R.LSR) & 0x60).toBe(0x60);
    expect(kit.pulses(() => kit.out(R.IER, ier))).toBe(1);
    expect(kit.in(R.IIR) & 0x0f).toBe(0x02);
    back.drain();
    expect(output).toEqual([1, 2, 3]);
    back.close();
  });
});
