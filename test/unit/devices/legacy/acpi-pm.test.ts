// ACPI fixed hardware, held to sentences of ACPI 6.5 §4.8.3.
import { describe, expect, test } from 'vitest';
import { createAcpiPm } from '../../../../src/devices/legacy/acpi-pm.js';
import { MACHINE_EVENT, MachineEvents } from '../../../../src/devices/machine-event.js';
import { RegisterFile } from '../../../../src/devices/register-file.js';
import { PORT } from '../../../../src/memory/layout.js';

const [STS, EN] = [0, 2];
const CNT = PORT.PM1A_CONTROL - PORT.PM1A_EVENT;
const RESET = PORT.ACPI_RESET - PORT.PM1A_EVENT;

function make() {
  const registers = RegisterFile.create(4096);
  const events = new MachineEvents(registers, { signal: () => undefined });
  let pulses = 0;
  const pm = createAcpiPm(registers, events, { pulse: () => void pulses++ });
  return { pm, events, pulses: () => pulses };
}

describe('PM1 control', () => {
  test('SCI_EN: "When this bit is set, then power management events will generate an SCI interrupt"; there is no other mode', () => {
    const { pm } = make();
    pm.write(CNT, 2, 0);
    expect(pm.read(CNT, 2) & 1).toBe(1);
  });

  test('SLP_EN: "Setting this bit causes the system to sequence into the Sleeping state associated with the SLP_TYPx fields"', () => {
    const { pm, events } = make();
    pm.write(CNT, 2, 0x2000 | (3 << 10));
    pm.write(CNT, 2, 5 << 10);
    expect(events.peek()).toBeUndefined();
    // "This is a write-only bit and reads to it always return a zero".
    expect(pm.read(CNT, 2)).toBe((5 << 10) | 1);
    pm.write(CNT, 2, 0x2000 | (5 << 10));
    expect(events.peek()?.kind).toBe(MACHINE_EVENT.POWER_OFF);
  });

  test('by bytes: the upper one alone carries SLP_TYP and SLP_EN', () => {
    const { pm, events } = make();
    pm.write(CNT, 1, 0xff);
    expect(events.peek()).toBeUndefined();
    pm.write(CNT + 1, 1, 0x34);
    expect(events.peek()?.kind).toBe(MACHINE_EVENT.POWER_OFF);
  });
});

describe('PM1 event', () => {
  test('the power button: a status bit, "cleared by software writing a one to its bit position", and an SCI when enabled', () => {
    const { pm, pulses } = make();
    pm.pressPowerButton();
    expect([pm.read(STS, 2), pulses()]).toEqual([0x0100, 0]);
    pm.write(EN, 2, 0x0100);
    expect([pm.read(EN, 2), pulses()]).toEqual([0x0100, 1]);
    pm.write(STS, 2, 0x0001);
    expect(pm.read(STS, 2)).toBe(0x0100);
    pm.write(STS + 1, 1, 0x01);
    expect(pm.read(STS, 2)).toBe(0);
    pm.pressPowerButton();
    expect(pulses()).toBe(2);
  });

  test('by bytes, the other half of PM1_EN keeps', () => {
    const { pm } = make();
    pm.write(EN, 2, 0x0320);
    pm.write(EN + 1, 1, 0x01);
    expect(pm.read(EN, 2)).toBe(0x0120);
    expect(pm.read(STS, 4)).toBe(0x0120_0000);
  });
});

test('the reset register resets on its one value only', () => {
  const { pm, events } = make();
  pm.write(RESET, 1, 0x0e);
  expect(events.peek()).toBeUndefined();
  pm.write(RESET, 1, 0x0f);
  expect(events.peek()?.kind).toBe(MACHINE_EVENT.RESET);
});

test('every port with 1, 2 and 4 bytes: nothing throws', () => {
  const { pm } = make();
  for (let offset = 0; offset <= RESET; offset++) {
    for (const size of [1, 2, 4]) {
      pm.write(offset, size, 0xffff_ffff);
      const value = pm.read(offset, size);
      expect(Number.isInteger(value) && value >= 0 && value < 2 ** (8 * size)).toBe(true);
    }
  }
});
