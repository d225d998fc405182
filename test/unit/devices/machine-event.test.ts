// Machine events and wake-ups: the first wins, one signal for many producers' work.
import { expect, test } from 'vitest';
import { MACHINE_EVENT, MachineEvents } from '../../../src/devices/machine-event.js';
import { RegisterFile } from '../../../src/devices/register-file.js';
import { Wake } from '../../../src/devices/wake.js';

function counter(): { count: number; signal(): void } {
  return {
    count: 0,
    signal() {
      this.count++;
    },
  };
}

test('"The first to ask wins", and every thread sees its kind and value', () => {
  const file = RegisterFile.create(4096);
  const owner = counter();
  const events = new MachineEvents(file, owner);
  const elsewhere = new MachineEvents(RegisterFile.attach(file.share()), owner);
  expect([events.pending.get(), events.peek()]).toEqual([0, undefined]);
  expect(events.raise(MACHINE_EVENT.DEBUG_EXIT, 0xffff_ffff)).toBe(true);
  expect(elsewhere.raise(MACHINE_EVENT.RESET)).toBe(false);
  expect(elsewhere.peek()).toEqual({ kind: MACHINE_EVENT.DEBUG_EXIT, value: 0xffff_ffff });
  expect([elsewhere.pending.get(), owner.count]).toEqual([MACHINE_EVENT.DEBUG_EXIT, 1]);
  elsewhere.clear();
  expect([events.peek(), events.raise(MACHINE_EVENT.RESET), events.peek()?.kind]).toEqual([
    undefined,
    true,
    MACHINE_EVENT.RESET,
  ]);
});

test('"a stream of events costs one wake-up and not one an event"', () => {
  const { asleep } = RegisterFile.create(64).allocate('d', { asleep: { doc: '' } });
  const owner = counter();
  const wake = new Wake(asleep, owner);
  wake.notify();
  expect(owner.count).toBe(0);
  wake.prepareSleep();
  for (let i = 0; i < 100; i++) wake.notify();
  expect(owner.count).toBe(1);
  expect(wake.stayAwake()).toBe(false);
  wake.prepareSleep();
  expect(wake.stayAwake()).toBe(true);
  wake.notify();
  expect(owner.count).toBe(1);
  wake.force();
  expect(owner.count).toBe(2);
});
