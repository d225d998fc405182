// The keyboard controller: reset, and answers that let a driver's probe end.
// IBM PS/2 Hardware Interface Technical Reference; Linux 6.1 drivers/input/serio/i8042.c for the probe.
import { expect, test } from 'vitest';
import { createI8042 } from '../../../../src/devices/legacy/i8042.js';
import { MACHINE_EVENT, MachineEvents } from '../../../../src/devices/machine-event.js';
import { RegisterFile } from '../../../../src/devices/register-file.js';

function make() {
  const registers = RegisterFile.create(4096);
  const events = new MachineEvents(registers, { signal: () => undefined });
  const { data, command } = createI8042(registers, events);
  return {
    events,
    status: () => command.read(0, 1),
    command: (value: number) => command.write(0, 1, value),
    read: () => data.read(0, 1),
    write: (value: number) => data.write(0, 1, value),
    handlers: [data, command],
  };
}

test('command 0xfe pulses the reset line: reboot=k', () => {
  const i8042 = make();
  // Linux's kb_wait: the input buffer must be empty before the command.
  expect(i8042.status() & 0x02).toBe(0);
  i8042.command(0xfe);
  expect(i8042.events.peek()).toEqual({ kind: MACHINE_EVENT.RESET, value: 0 });
});

test('a pulse of other lines, 0xff, resets nothing; a 0 in bit 0 of the output port does', () => {
  const i8042 = make();
  i8042.command(0xff);
  i8042.command(0xd1);
  i8042.write(0xdf);
  expect(i8042.events.peek()).toBeUndefined();
  i8042.command(0xd0);
  expect(i8042.read()).toBe(0xdf);
  i8042.command(0xd1);
  i8042.write(0xde);
  expect(i8042.events.peek()?.kind).toBe(MACHINE_EVENT.RESET);
});

test("Linux's probe: flush, self-test, command byte written and read back, no auxiliary device", () => {
  const i8042 = make();
  const answer = (command: number, parameter?: number): number => {
    i8042.command(command);
    if (parameter !== undefined) i8042.write(parameter);
    expect(i8042.status() & 0x01).toBe(0x01);
    const value = i8042.read();
    expect(i8042.status() & 0x01).toBe(0);
    return value;
  };
  // i8042_flush: "while ((str = i8042_read_status()) & I8042_STR_OBF)".
  expect(i8042.status() & 0x01).toBe(0);
  expect(answer(0xaa)).toBe(0x55);
  const control = answer(0x20);
  expect(answer(0x20)).toBe(control);
  i8042.command(0x60);
  i8042.write(control | 0x03);
  expect(answer(0x20)).toBe(control | 0x03);
  // AUX_LOOP comes back without AUXDATA (bit 5), AUX_TEST with an error: there is no such port.
  i8042.command(0xd3);
  i8042.write(0x5a);
  expect(i8042.status() & 0x21).toBe(0x01);
  expect(i8042.read()).toBe(0x5a);
  expect([0, 0xfa, 0xff]).not.toContain(answer(0xa9));
  i8042.command(0xad);
  expect(answer(0x20) & 0x10).toBe(0x10);
  i8042.command(0xae);
  expect(answer(0x20) & 0x10).toBe(0);
});

test('every command and every byte: nothing throws, and the input buffer is always empty', () => {
  for (let command = 0; command < 0x100; command++) {
    const i8042 = make();
    i8042.command(command);
    i8042.write(command ^ 0x5a);
    for (const handler of i8042.handlers)
      for (const size of [1, 2, 4]) expect(handler.read(0, size)).toBeGreaterThanOrEqual(0);
    expect(i8042.status() & 0x02).toBe(0);
  }
});
