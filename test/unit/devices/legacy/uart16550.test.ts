// The 16550A held to sentences of its data sheet.
// PC16550D data sheet (National Semiconductor, June 1995) §8; quotations are from there unless marked.
import { describe, expect, test } from 'vitest';
import { makeKit, R } from './uart-kit.js';

const [RDI, THRI, RLSI, MSI] = [1, 2, 4, 8];
const [RTS, OUT1, LOOP] = [0x02, 0x04, 0x10];
const text = (value: string): Uint8Array => new TextEncoder().encode(value);

describe('interrupt enable and identification', () => {
  test('"Bits 4 through 7: These four bits are always logic 0"', () => {
    const kit = makeKit();
    kit.out(R.IER, 0xff);
    expect(kit.in(R.IER)).toBe(0x0f);
  });

  test('"When bit 0 is a logic 1, no interrupt is pending"', () => {
    expect(makeKit().in(R.IIR)).toBe(0x01);
  });

  test('"Bits 6 and 7: These two bits are set when FCR0 = 1"', () => {
    const kit = makeKit();
    kit.out(R.FCR, 0x01);
    expect(kit.in(R.IIR)).toBe(0xc1);
    kit.out(R.FCR, 0x00);
    expect(kit.in(R.IIR)).toBe(0x01);
  });

  test('"this bit causes the UART to issue an interrupt to the CPU when the Transmit Holding Register Empty Interrupt enable is set high"', () => {
    const kit = makeKit();
    expect(kit.pulses(() => kit.out(R.IER, THRI))).toBe(1);
    expect(kit.in(R.IIR)).toBe(0x02);
  });

  test('Table IV, THRE: "Reading the IIR Register (if source of interrupt) or Writing into the Transmitter Holding Register"', () => {
    const kit = makeKit();
    kit.out(R.IER, THRI);
    expect([kit.in(R.IIR), kit.in(R.IIR)]).toEqual([0x02, 0x01]);
    expect(kit.pulses(() => kit.out(R.THR, 0x41))).toBe(1);
    // Not the source of the interrupt: reading IIR leaves it.
    const { back } = kit.back();
    back.write(text('x'));
    kit.out(R.IER, THRI | RDI);
    expect([kit.in(R.IIR), kit.in(R.IIR), kit.in(R.RBR), kit.in(R.IIR), kit.in(R.IIR)]).toEqual([
      0x04, 0x04, 0x78, 0x02, 0x01,
    ]);
    back.close();
  });

  test('a pending THRE is pulsed once, until it was identified', () => {
    const kit = makeKit();
    kit.out(R.IER, THRI);
    kit.in(R.IIR);
    expect(kit.pulses(() => text('sixteen bytes...').forEach((byte) => kit.out(R.THR, byte)))).toBe(1);
    kit.in(R.IIR);
    expect(kit.pulses(() => kit.out(R.THR, 0x41))).toBe(1);
  });

  test('"Disabling an interrupt prevents it from being indicated as active in the IIR and from activating the INTR output"', () => {
    const kit = makeKit();
    kit.out(R.IER, THRI);
    expect(kit.pulses(() => (kit.out(R.IER, 0), kit.out(R.THR, 0x41)))).toBe(0);
    expect(kit.in(R.IIR)).toBe(0x01);
    expect(kit.pulses(() => kit.out(R.IER, THRI))).toBe(1);
  });

  test('"The first transmitter interrupt after changing FCR0 will be immediate, if it is enabled"', () => {
    const kit = makeKit();
    kit.out(R.IER, THRI);
    kit.in(R.IIR);
    expect(kit.pulses(() => kit.out(R.FCR, 0x01))).toBe(1);
    expect(kit.in(R.IIR)).toBe(0xc2);
  });

  test('"The four levels of interrupt conditions in order of priority are Receiver Line Status, Received Data Ready, Transmitter Holding Register Empty, and MODEM Status"', () => {
    const kit = makeKit();
    kit.out(R.MCR, LOOP);
    kit.out(R.IER, RDI | THRI | RLSI | MSI);
    kit.out(R.MCR, LOOP | RTS);
    kit.out(R.THR, 0x31);
    kit.out(R.THR, 0x32);
    expect(kit.in(R.IIR)).toBe(0x06);
    expect(kit.in(R.LSR) & 0x02).toBe(0x02);
    expect(kit.in(R.IIR)).toBe(0x04);
    expect(kit.in(R.RBR)).toBe(0x32);
    expect(kit.in(R.IIR)).toBe(0x02);
    expect(kit.in(R.IIR)).toBe(0x00);
    expect(kit.in(R.MSR) & 0x0f).toBe(0x01 | 0x02 | 0x08);
    expect(kit.in(R.IIR)).toBe(0x01);
  });
});

describe('receiver', () => {
  test('"The data ready bit (LSR0) is set as soon as a character is transferred … It is reset when the FIFO is empty"', () => {
    const kit = makeKit();
    kit.out(R.FCR, 0x01);
    const { back } = kit.back();
    expect(kit.in(R.LSR)).toBe(0x60);
    back.write(text('ab'));
    expect([kit.in(R.LSR), kit.in(R.RBR), kit.in(R.LSR), kit.in(R.RBR), kit.in(R.LSR)]).toEqual([
      0x61, 0x61, 0x61, 0x62, 0x60,
    ]);
    expect(kit.in(R.RBR)).toBe(0);
    back.close();
  });

  test.each([
    [0x01, 1],
    [0x41, 4],
    [0x81, 8],
    [0xc1, 14],
  ])(
    'FCR 0x%s: "The receive data available interrupt will be issued when the FIFO has reached its programmed trigger level", %d',
    (fcr, level) => {
      const kit = makeKit();
      kit.out(R.FCR, fcr);
      kit.out(R.IER, RDI);
      const { back } = kit.back();
      expect(kit.pulses(() => back.write(new Uint8Array(level)))).toBe(1);
      expect(kit.in(R.IIR)).toBe(0xc4);
      // "it will be cleared as soon as the FIFO drops below its programmed trigger level"; below it, only the time-out.
      kit.in(R.RBR);
      expect(kit.in(R.IIR)).toBe(level === 1 ? 0xc1 : 0xcc);
      back.close();
    },
  );

  test('"interrupts no one any more" once closed, though input was written before a saved state was adopted', async () => {
    const kit = makeKit();
    const { back } = kit.back();
    kit.out(R.IER, 1);
    back.write(Uint8Array.of(1));
    back.adopt();
    back.close();
    const before = kit.irqs;
    await new Promise((resolve) => setTimeout(resolve, 60));
    expect(kit.irqs).toBe(before);
  });

  test('Table IV: "No Characters Have Been Removed From or Input to the RCVR FIFO During the Last 4 Char. Times": the interrupt comes again', async () => {
    const kit = makeKit();
    kit.out(R.FCR, 0xc1);
    kit.out(R.IER, RDI);
    const { back } = kit.back();
    back.write(text('abc'));
    // A driver that takes one character an interrupt must get them all.
    let taken = '';
    for (let seen = 0; taken.length < 3;) {
      while (kit.irqs === seen) await new Promise((resolve) => setTimeout(resolve, 1));
      seen = kit.irqs;
      expect(kit.in(R.IIR)).toBe(0xcc);
      taken += String.fromCharCode(kit.in(R.RBR));
    }
    expect(taken).toBe('abc');
    back.close();
  });

  test('without FIFOs each character interrupts, as each arrives by itself', () => {
    const kit = makeKit();
    kit.out(R.IER, RDI);
    const { back } = kit.back();
    expect(kit.pulses(() => back.write(text('abc')))).toBe(1);
    expect(kit.pulses(() => kit.in(R.RBR))).toBe(1);
    expect(kit.pulses(() => kit.in(R.RBR))).toBe(1);
    expect(kit.pulses(() => kit.in(R.RBR))).toBe(0);
    back.close();
  });

  test('enabling the interrupt while a character waits raises it', () => {
    const kit = makeKit();
    const { back } = kit.back();
    expect(kit.pulses(() => back.write(text('a')))).toBe(0);
    expect(kit.pulses(() => kit.out(R.IER, RDI))).toBe(1);
    back.close();
  });

  test('input that came before a reset of the receiver FIFO is still on the wire: nothing is lost', () => {
    const kit = makeKit();
    const { back } = kit.back();
    back.write(text('type-ahead'));
    for (const fcr of [0x01, 0x07, 0x00]) kit.out(R.FCR, fcr);
    expect(String.fromCharCode(...Array.from('type-ahead', () => kit.in(R.RBR)))).toBe('type-ahead');
    back.close();
  });

  test('flowControl rts: "input waits on the wire while the guest holds MCR.RTS at 0" (this UART)', () => {
    const kit = makeKit({ flowControl: 'rts' });
    const { back } = kit.back();
    kit.out(R.IER, RDI);
    expect(kit.pulses(() => back.write(text('a')))).toBe(0);
    expect([kit.in(R.LSR), kit.in(R.RBR), kit.in(R.IIR)]).toEqual([0x60, 0, 0x01]);
    expect(kit.pulses(() => kit.out(R.MCR, RTS))).toBe(1);
    expect([kit.in(R.LSR), kit.in(R.IIR), kit.in(R.RBR)]).toEqual([0x61, 0x04, 0x61]);
    back.close();
  });
});

describe('modem control and status', () => {
  test('"Bits 5 through 7: These bits are permanently set to logic 0"', () => {
    const kit = makeKit();
    kit.out(R.MCR, 0xef);
    expect(kit.in(R.MCR)).toBe(0x0f);
  });

  test('the other end is there and ready: CTS, DSR and DCD', () => {
    expect(makeKit().in(R.MSR)).toBe(0xb0);
  });

  test.each([
    [0x02, 0x10, 'Bit 4 … is equivalent to RTS in the MCR'],
    [0x01, 0x20, 'Bit 5 … is equivalent to DTR in the MCR'],
    [0x04, 0x40, 'Bit 6 … is equivalent to OUT 1 in the MCR'],
    [0x08, 0x80, 'Bit 7 … is equivalent to OUT 2 in the MCR'],
  ])('loopback, MCR 0x%s → MSR 0x%s: "%s"', (output, line, _sentence) => {
    const kit = makeKit();
    kit.out(R.MCR, LOOP | output);
    expect(kit.in(R.MSR) & 0xf0).toBe(line);
  });

  test('"Bit 2 indicates that the RI input to the chip has changed from a low to a high state"', () => {
    const kit = makeKit();
    kit.out(R.MCR, LOOP | OUT1);
    expect(kit.in(R.MSR) & 0x04).toBe(0);
    kit.out(R.MCR, LOOP);
    expect(kit.in(R.MSR)).toBe(0x04);
  });

  test('"They are reset to logic 0 whenever the CPU reads the MODEM Status Register"; "Whenever bit 0, 1, 2, or 3 is set to logic 1, a MODEM Status Interrupt is generated"', () => {
    const kit = makeKit();
    kit.out(R.MCR, LOOP);
    kit.in(R.MSR);
    kit.out(R.IER, MSI);
    expect(kit.pulses(() => kit.out(R.MCR, LOOP | RTS))).toBe(1);
    expect([kit.in(R.IIR), kit.in(R.MSR), kit.in(R.MSR), kit.in(R.IIR)]).toEqual([0x00, 0x11, 0x10, 0x01]);
  });

  test('"In the loopback mode, data that is transmitted is immediately received" and goes nowhere else', () => {
    const kit = makeKit();
    const { back, output } = kit.back();
    back.write(text('wire'));
    kit.out(R.MCR, LOOP);
    kit.out(R.FCR, 0x01);
    for (let byte = 0; byte < 16; byte++) kit.out(R.THR, byte);
    expect(Array.from({ length: 16 }, () => kit.in(R.RBR))).toEqual(Array.from({ length: 16 }, (_, i) => i));
    expect(kit.in(R.LSR)).toBe(0x60);
    back.drain();
    expect(output).toEqual([]);
    // "the receiver Serial Input (SIN) is disconnected": what the host sent comes in after it.
    kit.out(R.MCR, 0);
    expect(kit.in(R.RBR)).toBe('w'.charCodeAt(0));
    back.close();
  });

  test('loopback overrun with FIFOs: sixteen characters stay, OE is set, and reading LSR clears it', () => {
    const kit = makeKit();
    kit.out(R.FCR, 0x01);
    kit.out(R.MCR, LOOP);
    kit.out(R.IER, RLSI);
    expect(kit.pulses(() => Array.from({ length: 17 }, (_, i) => kit.out(R.THR, i)))).toBe(1);
    expect([kit.in(R.LSR), kit.in(R.LSR)]).toEqual([0x63, 0x61]);
    expect(Array.from({ length: 17 }, () => kit.in(R.RBR)).slice(0, 16)).toEqual(
      Array.from({ length: 16 }, (_, i) => i),
    );
  });

  test('"Writing a 1 to FCR1 clears all bytes in the RCVR FIFO"; "When changing from the FIFO Mode to the 16450 Mode and vice versa, data is automatically cleared"', () => {
    for (const fcr of [0x03, 0x00]) {
      const kit = makeKit();
      kit.out(R.FCR, 0x01);
      kit.out(R.MCR, LOOP);
      kit.out(R.THR, 0x55);
      expect(kit.in(R.LSR) & 1).toBe(1);
      kit.out(R.FCR, fcr);
      expect(kit.in(R.LSR) & 1).toBe(0);
    }
  });

  test('"This bit must be a 1 when other FCR bits are written to or they will not be programmed"', () => {
    const kit = makeKit();
    kit.out(R.FCR, 0xc0);
    expect(kit.state.fields.FCR.get()).toBe(0);
  });
});

describe('latch, scratch and sizes', () => {
  test('the divisor latch is reached while DLAB is set, the buffers are not', () => {
    const kit = makeKit();
    const { back, output } = kit.back();
    kit.out(R.IER, 0x05);
    kit.out(R.LCR, 0x83);
    kit.out(R.DLL, 0x0c);
    kit.out(R.DLM, 0x01);
    expect([kit.in(R.DLL), kit.in(R.DLM), kit.in(R.LCR)]).toEqual([0x0c, 0x01, 0x83]);
    kit.out(R.LCR, 0x03);
    expect([kit.in(R.RBR), kit.in(R.IER)]).toEqual([0, 0x05]);
    back.drain();
    expect(output).toEqual([]);
    back.close();
  });

  test('"This 8-bit Read/Write Register does not control the UART in anyway"', () => {
    const kit = makeKit();
    for (const value of [0xa5, 0x5a]) {
      kit.out(R.SCR, value);
      expect(kit.in(R.SCR)).toBe(value);
    }
  });

  test('a wide access is made of byte accesses, in ascending order', () => {
    const kit = makeKit();
    kit.out(R.LCR, 0x80);
    kit.uart.write(R.DLL, 2, 0x1234);
    expect([kit.in(R.DLL), kit.in(R.DLM), kit.uart.read(R.DLL, 2)]).toEqual([0x34, 0x12, 0x1234]);
    expect(kit.uart.read(R.SCR, 4)).toBe(0xffff_ff00);
  });

  test('every offset with 1, 2 and 4 bytes, in every mode: nothing throws, reads stay unsigned and in size', () => {
    for (const onFull of ['drop', 'wait'] as const) {
      for (let mode = 0; mode < 16; mode++) {
        const kit = makeKit({ onFull, txCapacity: 32 });
        kit.out(R.LCR, (mode & 1) * 0x80);
        kit.out(R.MCR, (mode & 2) * 8);
        kit.out(R.FCR, (mode >> 2) & 1);
        for (let turn = 0; turn < 5; turn++) {
          for (let offset = 0; offset < 8; offset++) {
            for (const size of [1, 2, 4]) {
              kit.uart.write(offset, size, (mode & 8) === 0 ? 0xffff_ffff : offset * 0x0101_0101);
              const value = kit.uart.read(offset, size);
              expect(Number.isInteger(value) && value >= 0 && value < 2 ** (8 * size)).toBe(true);
            }
          }
        }
      }
    }
  });

  test('the rows name each register as the data sheet does', () => {
    const kit = makeKit();
    const names = (isWrite: boolean): unknown[] =>
      Array.from({ length: 8 }, (_, i) => kit.uart.registerName(i, isWrite));
    expect(names(false)).toEqual(['RBR', 'IER', 'IIR', 'LCR', 'MCR', 'LSR', 'MSR', 'SCR']);
    expect(names(true)).toEqual(['THR', 'IER', 'FCR', 'LCR', 'MCR', undefined, undefined, 'SCR']);
    kit.out(R.LCR, 0x80);
    expect(names(false).slice(0, 2)).toEqual(['DLL', 'DLM']);
    expect(kit.uart.registers).toHaveLength(12);
  });
});
