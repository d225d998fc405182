// The device status field and feature negotiation: which writes are taken.
// VIRTIO 1.2 §2.1 (device status field), §2.2 (feature bits), §3.1.1 (initialization); hostile cases 14 and 15.
import { describe, expect, test } from 'vitest';
import { FEATURE, STATUS } from '../../../../src/devices/virtio/abi.js';
import { nextStatus } from '../../../../src/devices/virtio/mmio-status.js';
import { TestDevice } from '../../../support/test-device.js';
import { DRIVING, MockMachine, REG } from '../../../support/virtqueue-driver.js';

const { ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK, DEVICE_NEEDS_RESET, FAILED } = STATUS;
const ORDER = [ACKNOWLEDGE, DRIVER, FEATURES_OK, DRIVER_OK];
const bytes = Array.from({ length: 256 }, (_, value) => value);
const yes = (): boolean => true;
const no = (): boolean => false;

/** The states that a device can be in: a prefix of the order, with or without the two bits that come at any time. */
const reachable = Array.from({ length: ORDER.length + 1 }, (_, n) =>
  ORDER.slice(0, n).reduce((a, b) => a | b, 0),
).flatMap((bits) => [bits, bits | FAILED, bits | DEVICE_NEEDS_RESET, bits | FAILED | DEVICE_NEEDS_RESET]);

describe('the status table', () => {
  /** Writes of any byte in any state, with valid features and without, for which `isRight` is false. */
  const breaches = (isRight: (current: number, written: number, next: number) => boolean): unknown[] =>
    [yes, no].flatMap((areValid) =>
      reachable.flatMap((current) =>
        bytes
          .map((written) => ({ current, written, next: nextStatus(current, written, areValid) }))
          .filter(({ written, next }) => !isRight(current, written, next)),
      ),
    );

  test('"The driver MUST NOT clear a device status bit": such a write changes nothing', () => {
    expect(
      breaches((current, written, next) => (current & ~DEVICE_NEEDS_RESET & ~written) === 0 || next === current),
    ).toEqual([]);
  });

  test('no write sets DEVICE_NEEDS_RESET, takes a bit away, or sets one that the specification does not have', () => {
    expect(
      breaches(
        (current, written, next) =>
          (next & DEVICE_NEEDS_RESET) === (current & DEVICE_NEEDS_RESET) &&
          (next & current) === current &&
          (next & ~(current | written)) === 0 &&
          (next & 0x30) === 0,
      ),
    ).toEqual([]);
  });

  test('whatever is written, the bits stand in the order of §3.1.1: from every state to reachable ones only', () => {
    expect(breaches((_current, _written, next) => reachable.includes(next))).toEqual([]);
  });

  test('each step of the order is taken, alone and all at once; so is FAILED, and then nothing more', () => {
    let status = 0;
    for (const bit of ORDER) {
      expect(nextStatus(status, status | bit, yes)).toBe(status | bit);
      expect(nextStatus(status, status | FAILED, yes)).toBe(status | FAILED);
      expect(nextStatus(status | FAILED, status | bit | FAILED, yes)).toBe(status | FAILED);
      status |= bit;
    }
    expect(nextStatus(0, DRIVING, yes)).toBe(DRIVING);
    expect(nextStatus(0, DRIVING, no)).toBe(ACKNOWLEDGE | DRIVER);
  });

  test('out of order: the bits up to the one that is missing are taken', () => {
    expect(nextStatus(0, DRIVER, yes)).toBe(0);
    expect(nextStatus(0, DRIVER_OK, yes)).toBe(0);
    expect(nextStatus(ACKNOWLEDGE, ACKNOWLEDGE | DRIVER_OK, yes)).toBe(ACKNOWLEDGE);
    expect(nextStatus(ACKNOWLEDGE | DRIVER, ACKNOWLEDGE | DRIVER | DRIVER_OK, yes)).toBe(ACKNOWLEDGE | DRIVER);
  });

  test('the features are looked at once, when FEATURES_OK is new', () => {
    let asked = 0;
    const count = (): boolean => ++asked > 0;
    nextStatus(ACKNOWLEDGE | DRIVER, ACKNOWLEDGE | DRIVER | FEATURES_OK, count);
    expect(asked).toBe(1);
    nextStatus(ACKNOWLEDGE | DRIVER | FEATURES_OK, DRIVING, count);
    nextStatus(0, FEATURES_OK, count);
    expect(asked).toBe(1);
  });
});

describe('feature negotiation', () => {
  const OWN = 5;
  const machine = (): MockMachine => new MockMachine(new TestDevice({ features: [OWN, 40] }));
  const ALL = [OWN, 40, ...Object.values(FEATURE)];

  /** Offers the bits to the device. @returns the status afterwards */
  function accept(it: MockMachine, bits: readonly number[]): number {
    it.write(REG.Status, ACKNOWLEDGE);
    it.write(REG.Status, ACKNOWLEDGE | DRIVER);
    for (const half of [0, 1]) {
      it.write(REG.DriverFeaturesSel, half);
      const mine = bits.filter((bit) => bit >> 5 === half);
      it.write(
        REG.DriverFeatures,
        mine.reduce((value, bit) => value | (1 << (bit & 31)), 0),
      );
    }
    it.write(REG.Status, ACKNOWLEDGE | DRIVER | FEATURES_OK);
    return it.status;
  }

  test('the device offers its own and those of the transport', () => {
    expect(machine().offered()).toBe(ALL.reduce((bits, bit) => bits | (1n << BigInt(bit)), 0n));
  });

  test.each([
    ['all that are offered', ALL, true],
    ['VERSION_1 alone', [FEATURE.VERSION_1], true],
    ['"no VERSION_1"', ALL.filter((bit) => bit !== FEATURE.VERSION_1), false],
    ['none', [], false],
    ['"a feature that was not offered", bit 0', [...ALL, 0], false],
    ['the same, bit 31', [...ALL, 31], false],
    ['the same, bit 33', [...ALL, 33], false],
    ['the same, bit 63', [...ALL, 63], false],
  ] as const)('15. %s: FEATURES_OK sticks or not', (_, bits, sticks) => {
    const it = machine();
    expect(accept(it, bits)).toBe(ACKNOWLEDGE | DRIVER | (sticks ? FEATURES_OK : 0));
    it.write(REG.Status, DRIVING);
    expect(it.status).toBe(sticks ? DRIVING : ACKNOWLEDGE | DRIVER);
  });

  test('15. after a refusal the driver may try again with fewer', () => {
    const it = machine();
    expect(accept(it, [...ALL, 0]) & FEATURES_OK).toBe(0);
    it.write(REG.DriverFeaturesSel, 0);
    it.write(REG.DriverFeatures, 1 << OWN);
    it.write(REG.Status, ACKNOWLEDGE | DRIVER | FEATURES_OK);
    expect(it.status & FEATURES_OK).toBe(FEATURES_OK);
  });

  test('15. "features after FEATURES_OK" and before DRIVER change nothing', () => {
    const it = machine();
    it.write(REG.DriverFeatures, 0xffff_ffff);
    expect(it.state.fields.DriverFeaturesLow.get()).toBe(0);
    accept(it, [OWN, FEATURE.VERSION_1]);
    for (const half of [0, 1, 2, 0xffff_ffff]) {
      it.write(REG.DriverFeaturesSel, half);
      it.write(REG.DriverFeatures, 0xffff_ffff);
    }
    expect(it.state.fields.DriverFeaturesLow.get()).toBe(1 << OWN);
    expect(it.state.fields.DriverFeaturesHigh.get()).toBe(1);
  });

  test('the device is told what was negotiated, and nothing that it did not offer', async () => {
    const device = new TestDevice({ features: [OWN, 40] });
    const it = new MockMachine(device);
    accept(it, [OWN, FEATURE.VERSION_1]);
    // Between the check and the activation another vCPU can still store what it likes.
    it.state.fields.DriverFeaturesLow.or(1 << 3);
    it.write(REG.Status, DRIVING);
    await it.settle();
    expect([OWN, 40, 3, ...Object.values(FEATURE)].filter((bit) => device.link?.has(bit))).toEqual([
      OWN,
      FEATURE.VERSION_1,
    ]);
  });
});

describe('the Status register', () => {
  test('14. "status bits out of order or cleared; NEEDS_RESET written by the driver → IGN"', async () => {
    const machine = new MockMachine(new TestDevice());
    for (const value of [DRIVER_OK, FEATURES_OK, DRIVER, DEVICE_NEEDS_RESET, 0x10, 0x20, 0x30]) {
      machine.write(REG.Status, value);
      expect(machine.status).toBe(0);
    }
    await machine.start();
    for (const value of [DRIVING & ~DRIVER_OK, ACKNOWLEDGE, DRIVING | DEVICE_NEEDS_RESET, 0x80]) {
      machine.write(REG.Status, value);
      expect(machine.status).toBe(DRIVING);
    }
  });

  test('"writing zero (0x0) to this register triggers a device reset", also of one that never was active', async () => {
    const device = new TestDevice({ queueSizes: [8, 8] });
    const machine = new MockMachine(device);
    const fresh = machine.registers.fields.map(({ field }) => field.get());
    machine.negotiate();
    machine.addQueue(0, 8);
    machine.addQueue(1, 4);
    machine.write(REG.Status, 0);
    expect(machine.registers.fields.map(({ field }) => field.get())).toEqual(fresh);
    expect(device.calls).toEqual([]);
    await machine.start();
    expect(device.calls).toEqual(['activate', 'notify 0', 'notify 1']);
  });

  test('FAILED of an active device: only a reset brings it back', async () => {
    const machine = new MockMachine(new TestDevice());
    await machine.start();
    machine.write(REG.Status, DRIVING | FAILED);
    expect(machine.status).toBe(DRIVING | FAILED);
    machine.write(REG.Status, 0);
    await machine.settle();
    expect(machine.status).toBe(0);
    await machine.start();
    expect(machine.status).toBe(DRIVING);
  });
});
