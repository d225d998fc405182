// What tests of hostile drivers on the real KVM share: a guest that does a script's accesses, a device to be bad to, and one
// beside it that goes on working.
import { setTimeout as sleep } from 'node:timers/promises';
import { expect } from 'vitest';
import { createVm, type Vm, type VmConfig } from '../../src/index.js';
import { INTERRUPT, STATUS } from '../../src/devices/virtio/abi.js';
import type { VirtioDevice } from '../../src/devices/virtio/device.js';
import { TestDevice } from '../support/test-device.js';
import {
  describeQueue,
  DRIVING,
  MockQueue,
  negotiate,
  type MockBuffer,
  REG,
  type DriverHands,
  type QueuePlace,
} from '../support/virtqueue-driver.js';
import { interpreter, LOAD, MEMORY_MIB, Script } from './script-guest.js';

/** Of every queue. */
export const SIZE = 8;
/** Memory for buffers, up to the script's end mark. */
export const DATA = 0x18_0000;
export const BUFFERS = [
  { gpa: DATA, length: 4 },
  { gpa: DATA + 64, length: 4, writable: true },
];

/** After that much time a script does not end any more: it takes a second, on the emulated host some ten. */
const PATIENCE_MS = 50_000;

export interface Kit<Device extends VirtioDevice = TestDevice> {
  readonly vm: Vm;
  readonly script: Script;
  readonly victim: Device;
  readonly hands: DriverHands & { readonly base: number };
  readonly warnings: readonly string[];
  /** Ends the script with a use of the other device, runs it, and waits for its end. The guest's memory is there still. */
  readonly run: (patienceMs?: number) => Promise<void>;
}

export const machine = (): VmConfig => ({
  kernel: { name: 'script-guest', bytes: interpreter() },
  entry: 'protected',
  load: LOAD,
  cmdline: '',
  memoryMiB: MEMORY_MIB,
});

export const victimDevice = (): TestDevice =>
  new TestDevice({ name: 'victim', queueSizes: [SIZE, SIZE], config: Uint8Array.of(1, 2, 3, 4, 5) });

/** A machine with a device to be bad to, and one beside it that goes on working. */
export async function withGuest<Device extends VirtioDevice>(
  victim: Device,
  action: (kit: Kit<Device>) => Promise<void>,
): Promise<void> {
  const bystander = new TestDevice({ name: 'bystander' });
  const warnings: string[] = [];
  const vm = await createVm({
    ...machine(),
    virtio: [() => victim, () => bystander],
    onWarning: (message) => warnings.push(message),
  });
  await using _ = vm;
  const script = new Script(vm.memory);
  const run = async (patienceMs?: number): Promise<void> => {
    useDevice(script, script.hands(1, bystander.offer), 0x16_0000);
    await runScript(vm, script, patienceMs);
    expect(bystander.heads).toHaveLength(1);
  };
  await action({ vm, script, victim, hands: script.hands(0, victim.offer), warnings, run });
}

/** Ends the script, starts the machine and waits until the guest has come to the end. Its memory is there still. */
export async function runScript(vm: Vm, script: Script, patienceMs = PATIENCE_MS): Promise<void> {
  const hasEnded = script.end();
  await vm.start();
  const latest = Date.now() + patienceMs;
  while (!hasEnded() && vm.state === 'running') {
    if (Date.now() > latest) throw new Error(await whereItStands(vm, script));
    await sleep(2);
  }
  expect(vm.state).toBe('running');
}

/** For the one who reads that a test failed: what the guest is at, and what the devices' registers say. */
async function whereItStands(vm: Vm, script: Script): Promise<string> {
  const { threads, fields } = vm.inspect();
  await vm.pause();
  const regs = (await threads[0]?.call('captureState'))?.regs ?? {};
  const registers = fields
    .filter(({ device }) => ['victim', 'bystander', 'disk', 'card', 'console', 'entropy'].includes(device))
    .map(({ device, name, field }) => `${device}.${name}=${field.get()}`);
  return `the script stands still at ${script.stepAt(Number(regs['rsi']))}, with ${JSON.stringify(regs)} and ${registers.join(' ')}`;
}

/** Lays a queue out, in the memory as it is at the start. */
export function layOut(hands: DriverHands, base: number, index = 0): MockQueue {
  return new MockQueue(hands, index, SIZE, base);
}

/** From reset to DRIVER_OK. @param without feature bits that this driver does not know */
export function begin(hands: DriverHands, queues: readonly QueuePlace[], without?: readonly number[]): void {
  negotiate(hands, without);
  drive(hands, queues);
}

/** The rest of it, when the features are negotiated. */
export function drive(hands: DriverHands, queues: readonly QueuePlace[]): void {
  for (const [index, queue] of queues.entries()) describeQueue(hands, index, queue);
  hands.write(REG.Status, DRIVING);
}

/** From reset to a chain that came back, in a ring of its own at `base`. */
export function useDevice(
  script: Script,
  hands: DriverHands & { readonly base: number },
  base: number,
  buffers: readonly MockBuffer[] = BUFFERS,
): void {
  const queue = layOut(hands, base);
  queue.publish(queue.build(buffers));
  begin(hands, [queue]);
  hands.write(REG.QueueNotify, 0);
  script.add('wait16', queue.used + 2, 1);
  script.add('waitBits', hands.base + REG.Status, STATUS.DRIVER_OK);
}

/** What every case that breaks the rings ends with: the guest sees it, resets, and the device works. */
export async function expectNeedsReset({ script, hands, victim, warnings, run }: Kit, reason: RegExp): Promise<void> {
  script.add('waitBits', hands.base + REG.Status, STATUS.DEVICE_NEEDS_RESET);
  const status = script.read(hands.base + REG.Status);
  // The notification comes "after it sets DEVICE_NEEDS_RESET": a driver that polls sees the status first.
  script.add('waitBits', hands.base + REG.InterruptStatus, INTERRUPT.CONFIGURATION_CHANGE);
  const interrupts = script.read(hands.base + REG.InterruptStatus);
  script.repeat(hands.base + REG.QueueNotify, 0, 100);
  hands.write(REG.Status, 0);
  const afterReset = script.read(hands.base + REG.Status);
  useDevice(script, hands, 0x14_0000);
  await run();
  expect(status()).toBe(DRIVING | STATUS.DEVICE_NEEDS_RESET);
  expect(interrupts() & INTERRUPT.CONFIGURATION_CHANGE).toBe(INTERRUPT.CONFIGURATION_CHANGE);
  expect(afterReset()).toBe(0);
  expect(victim.heads).toHaveLength(1);
  expect(warnings).toHaveLength(1);
  expect(warnings[0]).toMatch(reason);
}
