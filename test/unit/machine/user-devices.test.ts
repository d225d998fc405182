// A user's own devices, loaded and checked: for each mistake one sentence that names the device and says what to do.
// The documentation of UserDeviceConfig and DeviceDefinition.
import { describe, expect, test } from 'vitest';
import { Bus } from '../../../src/devices/bus.js';
import { UNCONNECTED } from '../../../src/devices/irq-line.js';
import { RegisterFile } from '../../../src/devices/register-file.js';
import { ConfigError } from '../../../src/machine/config-error.js';
import { deviceHandle } from '../../../src/machine/device-handle.js';
import {
  attachUserDevices,
  checkInterrupts,
  loadUserDevices,
  reloadUserDevices,
  type UserDevice,
  type UserDeviceConfig,
} from '../../../src/machine/user-devices.js';
import { ramRanges } from '../../../src/memory/layout.js';

const RAM = ramRanges(2 ** 30);
const module = (name: string): URL => new URL(`../../support/devices/${name}.js`, import.meta.url);
const load = (...devices: readonly unknown[]) => loadUserDevices(devices as readonly UserDeviceConfig[], RAM);

const quiet = { read: () => 0, write: () => undefined };
const closures = { name: 'tape', ports: { base: 0x500, length: 4 }, ...quiet };

function attach(devices: readonly UserDevice[], registers = RegisterFile.create()) {
  const pio = Bus.ports();
  const mmio = Bus.mmio();
  pio.attach(0x3f8, 8, { name: 'COM1', ...quiet });
  const closureFront = (name: string) => ({ name, ...quiet });
  attachUserDevices(devices, { registers, pio, mmio, irqLine: () => UNCONNECTED, closureFront });
  return { pio, mmio, registers };
}

async function refused(devices: readonly unknown[]): Promise<string> {
  try {
    attach(await load(...devices));
  } catch (error) {
    if (error instanceof ConfigError) return error.message;
    throw error;
  }
  throw new Error('the devices were taken');
}

describe("a user's devices", () => {
  test.each<[string, unknown, string | RegExp]>([
    ['no name', { ...closures, name: '' }, 'devices.0: a device needs a name'],
    ['no place', { ...closures, ports: undefined }, 'tape needs a place: either ports or mmio, as { base, length }'],
    ['two places', { ...closures, mmio: { base: 0xc000_0000, length: 4 } }, 'tape needs a place: either'],
    [
      'half a place',
      { ...closures, ports: { base: 1 } },
      'tape: its place must be { base, length }, two whole numbers',
    ],
    ['no write', { ...closures, write: undefined }, 'tape: its write must be of type function'],
    ['a length of 0', { ...closures, ports: { base: 0x500, length: 0 } }, 'the length at least 1'],
    ['beyond the ports', { ...closures, ports: { base: 0xfffe, length: 4 } }, 'it ends beyond 0xffff'],
    [
      'at COM1',
      { ...closures, ports: { base: 0x3ff, length: 4 } },
      /range 0x3ff–0x402 for tape: it overlaps .* of COM1/,
    ],
    ["at KVM's timer", { ...closures, ports: { base: 0x43, length: 1 } }, "0x43 to 0x43 overlaps KVM's timer at 0x40"],
    [
      'in RAM',
      { ...closures, ports: undefined, mmio: { base: 0x1000, length: 4 } },
      'overlaps guest RAM at 0x0; 0xc0000000 to 0xcfffffff are free',
    ],
    ['at the IOAPIC', { ...closures, ports: undefined, mmio: { base: 0xfec0_0010, length: 4 } }, "KVM's IOAPIC"],
    ["with COM1's interrupt", { ...closures, gsi: 4 }, 'tape: GSI 4 is none that it can have: 10, 11, 5'],
    ['with half an interrupt', { ...closures, gsi: '5' }, 'tape: GSI "5" is none'],
    ['a module that is not there', { module: './nowhere.js' }, /devices\.0\.module: cannot load file:.*nowhere\.js/],
    ['no module', { module: '' }, 'devices.0.module: must be the path or the URL of a module'],
    ['a module that throws', { module: module('broken-module') }, /broken-module\.js: not today/],
    ['a module without a device', { module: module('no-device') }, 'write export const device = defineDevice({ … })'],
    [
      'a factory that throws',
      { module: module('misbehaving'), options: 'throws in the factory' },
      /the device of .*misbehaving\.js cannot be made of these options: from the factory/,
    ],
    [
      'registers that throw',
      { module: module('misbehaving'), options: 'throws in registers' },
      'devices.0: from registers',
    ],
    [
      'options that are no data',
      { module: module('misbehaving'), options: () => 0 },
      'devices.0.options: must be plain data',
    ],
    ['a name that the machine has', { ...closures, name: 'bus' }, 'already has a device named bus'],
  ])('%s', async (_, device, sentence) => {
    const registers = RegisterFile.create();
    registers.allocate('bus', {});
    const message = await load(device).then(
      (devices) => {
        try {
          attach(devices, registers);
        } catch (error) {
          return String(error);
        }
        throw new Error('the device was taken');
      },
      (error: unknown) => String(error),
    );
    expect(message).toMatch(/^ConfigError: devices/);
    expect(message).toMatch(typeof sentence === 'string' ? plain(sentence) : sentence);
  });

  test('two at one address are both named', async () => {
    const other = { ...closures, name: 'reel', ports: { base: 0x502, length: 1 } };
    expect(await refused([closures, other])).toMatch(/devices\.1: cannot attach .* for reel: it overlaps .* of tape/);
  });

  test('two with one name', async () => {
    expect(await refused([closures, { ...closures, ports: { base: 0x600, length: 1 } }])).toContain(
      'a device named tape',
    );
  });

  test('an interrupt that another device has, with those that are free', async () => {
    const devices = await load({ ...closures, gsi: 10 }, { ...closures, name: 'reel', gsi: 11 });
    expect(() => checkInterrupts(devices, [{ name: 'disk0', gsi: 5 }])).not.toThrow();
    expect(() => checkInterrupts(devices, [{ name: 'disk0', gsi: 11 }])).toThrow(
      "devices: GSI 11 of reel is disk0's; free are 5, 6, 7, 14",
    );
  });

  test('a register beyond the device', async () => {
    const [device] = await load({ module: module('misbehaving') });
    if (device?.definition === undefined) throw new Error('no definition');
    const short = { ...device, place: { ports: { base: 0x500, length: 4 } } };
    expect(() => attach([short])).toThrow('register BROKEN at offset 4 is not within the 4 bytes of misbehaving');
  });

  test('a register that throws names its device, the access and the reason', async () => {
    const { pio } = attach(await load({ module: module('misbehaving') }));
    const sentence = 'device misbehaving failed in a 4-byte read at offset 0x4: RangeError: no such track';
    expect(() => pio.read(0x504, 4)).toThrow(sentence);
    expect(() => pio.read(0x504, 4)).toThrow(expect.objectContaining({ code: 'ERR_DEVICE_FAILED' }));
  });

  test('another thread makes the same device of what crosses to it, and the fields are shared', async () => {
    const mine = await load(
      { module: module('doorbell'), options: { place: { mmio: { base: 0xc000_0000, length: 4 } }, gsi: 5 } },
      closures,
    );
    const data = structuredClone(mine.map((device) => device.data));
    const theirs = await reloadUserDevices(data);
    expect(theirs.map(({ name, gsi }) => [name, gsi])).toEqual(mine.map(({ name, gsi }) => [name, gsi]));
    const here = attach(mine);
    here.registers.seal();
    const there = attach(theirs, RegisterFile.attach(here.registers.share()));
    there.registers.seal();
    there.mmio.write(0xc000_0000, 4, 77);
    expect(here.mmio.read(0xc000_0000, 4)).toBe(77);
    const handle = deviceHandle('doorbell', {
      registers: here.registers,
      user: mine,
      irqFd: () => undefined,
    });
    expect(handle.fields['RUNG']?.get()).toBe(77);
    handle.irq.pulse();
  });

  test('the handle of a device that is not there says which are', async () => {
    const user = await load(closures);
    const { registers } = attach(user);
    const parts = { registers, user, irqFd: () => undefined };
    expect(deviceHandle('tape', parts).fields).toEqual({});
    expect(() => deviceHandle('reel', parts)).toThrow('no device is named reel; this machine has tape');
  });

  test('closures may be the methods of an object that has more', async () => {
    class Counter {
      readonly name = 'counter';
      readonly ports = { base: 0x500, length: 1 };
      #count = 0;
      read(): number {
        return ++this.#count;
      }
      write(): void {
        this.#count = 0;
      }
    }
    const { pio } = attach(await load(new Counter()));
    expect([pio.read(0x500, 1), pio.read(0x500, 1)]).toEqual([1, 2]);
  });
});

function plain(text: string): RegExp {
  return new RegExp(text.replaceAll(/[.*+?^${}()|[\]\\]/g, String.raw`\$&`));
}
