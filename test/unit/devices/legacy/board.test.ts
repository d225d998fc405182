// The board's legacy devices, composed as a machine composes them: on two threads' worth of buses over one buffer.
import { describe, expect, test } from 'vitest';
import { Bus } from '../../../../src/devices/bus.js';
import { buildLegacy, type LegacyConfig } from '../../../../src/devices/legacy/board-rows.js';
import { UartBack } from '../../../../src/devices/legacy/uart16550-back.js';
import { MACHINE_EVENT, MachineEvents } from '../../../../src/devices/machine-event.js';
import { RegisterFile } from '../../../../src/devices/register-file.js';
import { GSI, PORT } from '../../../../src/memory/layout.js';

const CONFIGS: readonly LegacyConfig[] = [
  { kind: 'uart16550', port: PORT.COM1, gsi: GSI.COM1, options: { name: 'COM1', onFull: 'drop', flowControl: 'rts' } },
  { kind: 'uart16550', port: PORT.COM2, gsi: GSI.COM2, options: { name: 'COM2', onFull: 'wait', flowControl: 'rts' } },
  { kind: 'i8042' },
  { kind: 'cmos-rtc', memoryBytes: 128 << 20 },
  { kind: 'debug-exit' },
  { kind: 'post-code' },
  { kind: 'acpi-pm', gsi: GSI.SCI },
];

/** What one thread of a machine has. */
function thread(registers: RegisterFile, signals: string[]) {
  const events = new MachineEvents(registers, { signal: () => signals.push('events') });
  const legacy = buildLegacy(structuredClone(CONFIGS), {
    registers,
    events,
    clock: Date,
    irqLine: (gsi) => ({ pulse: () => signals.push(`gsi ${gsi}`) }),
    ownerSignal: (device) => ({ signal: () => signals.push(device) }),
  });
  registers.seal();
  const ports = Bus.ports();
  for (const { base, length, handler } of legacy.attachments) ports.attach(base, length, handler);
  return { events, legacy, ports };
}

function machine() {
  const signals: string[] = [];
  const registers = RegisterFile.create();
  const owner = thread(registers, signals);
  const vcpus = [0, 1].map(() => thread(RegisterFile.attach(registers.share()), signals));
  return { signals, registers, owner, vcpus: vcpus as [(typeof vcpus)[0], (typeof vcpus)[0]] };
}

describe('two vCPUs and the owner', () => {
  test('"an access is served where it happens, on any vCPU": registers written on one are read on the other', () => {
    const [first, second] = machine().vcpus;
    first.ports.write(PORT.COM1 + 7, 1, 0xa5);
    first.ports.write(PORT.CMOS_INDEX, 1, 0x34);
    first.ports.write(PORT.POST_CODE, 1, 0x42);
    expect([
      second.ports.read(PORT.COM1 + 7, 1),
      second.ports.read(PORT.COM2 + 7, 1),
      second.ports.read(PORT.CMOS_DATA, 1),
      second.ports.read(PORT.POST_CODE, 1),
    ]).toEqual([0xa5, 0, 0x00, 0x42]);
    expect(second.ports.read(PORT.CMOS_INDEX, 1)).toBe(0xff);
  });

  test('what both vCPUs print reaches the owner, in order', () => {
    const { owner, vcpus, signals } = machine();
    const com1 = owner.legacy.uarts.get('COM1');
    if (com1 === undefined) throw new Error('the board has no COM1');
    const bell = { signal: () => undefined, onReadable: () => ({ close: () => undefined }) };
    const back = new UartBack(com1.uart.state, com1.options, { irq: { pulse: () => undefined }, bell });
    let output = '';
    back.onOutput((bytes) => (output += new TextDecoder().decode(bytes)));
    for (const [i, byte] of new TextEncoder().encode('interleaved').entries())
      (i % 2 === 0 ? vcpus[0] : vcpus[1]).ports.write(PORT.COM1, 1, byte);
    back.close();
    expect([output, com1.gsi, signals]).toEqual(['interleaved', GSI.COM1, ['COM1']]);
  });

  test.each([
    ['debug exit', 0xf4, 4, 0x1234_5678, MACHINE_EVENT.DEBUG_EXIT, 0x1234_5678],
    ['debug exit', 0xf4, 2, 0x1_0007, MACHINE_EVENT.DEBUG_EXIT, 7],
    ['debug exit', 0xf4, 1, 0, MACHINE_EVENT.DEBUG_EXIT, 0],
    ['i8042', 0x64, 1, 0xfe, MACHINE_EVENT.RESET, 0],
    ['ACPI S5', 0x604, 2, 0x3400, MACHINE_EVENT.POWER_OFF, 0],
    ['ACPI reset', 0x608, 1, 0x0f, MACHINE_EVENT.RESET, 0],
  ])('%s on one vCPU is pending on the other, and wakes the owner', (_name, port, size, value, kind, carried) => {
    const { owner, vcpus, signals } = machine();
    vcpus[0].ports.write(port, size, value);
    expect([vcpus[1].events.pending.get(), owner.events.peek(), signals]).toEqual([
      kind,
      { kind, value: carried },
      ['events'],
    ]);
  });

  test("the board's ports, and the PCI configuration ports and port 0x61 that are nobody's here", () => {
    const { vcpus } = machine();
    expect(vcpus[0].ports.handlers.map(({ base, length, name }) => [base, length, name])).toEqual([
      [0x60, 1, 'i8042'],
      [0x64, 1, 'i8042'],
      [0x70, 2, 'rtc'],
      [0x80, 1, 'post-code'],
      [0xf4, 4, 'debug-exit'],
      [0x2f8, 8, 'COM2'],
      [0x3f8, 8, 'COM1'],
      [0x600, 9, 'acpi-pm'],
    ]);
    expect(vcpus[0].ports.read(0x61, 1)).toBe(0xff);
    for (const port of [0xcf8, 0xcfc]) expect(vcpus[0].ports.read(port, 4)).toBe(0xffff_ffff);
  });

  test('every port with 1, 2 and 4 bytes, read and written: nothing throws', () => {
    const { vcpus } = machine();
    const { ports } = vcpus[0];
    for (let port = 0; port < 0x1_0000; port++) {
      for (const size of [1, 2, 4]) {
        ports.write(port, size, 0xffff_ffff);
        const value = ports.read(port, size);
        if (!Number.isInteger(value) || value < 0 || value >= 2 ** (8 * size))
          throw new Error(`port ${port}: ${value}`);
      }
    }
    expect(ports.unclaimed).toBeGreaterThan(65_000 * 6);
  });

  test('all fields are listed by device and name, none is nameless', () => {
    const { registers } = machine();
    const names = registers.fields.map(({ device, name }) => `${device}.${name}`);
    expect(names).toContain('COM1.IER');
    expect(names).toContain('rtc.INDEX');
    expect(new Set(names).size).toBe(names.length);
    expect(registers.fields.every(({ doc }) => doc.length > 0)).toBe(true);
  });
});
