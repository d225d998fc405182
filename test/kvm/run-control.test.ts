// What the machine's owner, a debugger and somebody who looks at it say at the same time: src/machine/run-control.ts.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { createVm, type Vm, type VmConfig } from '../../src/index.js';
import { u32 } from '../support/images.js';
import { noKvm } from '../support/kvm.js';

const [COUNTER, GO] = [0x20_0000, 0x20_0004];
/** incl COUNTER; jmp back */
const COUNT = Uint8Array.from([0xff, 0x05, ...u32(COUNTER), 0xeb, 0xf8]);
/** cmpl $0,GO; je back; out %al,$0x99; incl COUNTER; jmp to out */
const WAIT_AND_OUT = Uint8Array.from(
  [
    [0x83, 0x3d, ...u32(GO), 0x00, 0x74, 0xf7],
    [0xe6, 0x99],
    [0xff, 0x05, ...u32(COUNTER), 0xeb, 0xf6],
  ].flat(),
);
const ROUNDS = 10;

describe.skipIf(noKvm)('to run or to stand', () => {
  let directory: string;
  beforeAll(() => void (directory = mkdtempSync(join(tmpdir(), 'microvisor-run-'))));
  afterAll(() => rmSync(directory, { recursive: true }));

  const made = (bytes: Uint8Array, more: Partial<VmConfig> = {}): Promise<Vm> =>
    createVm({ kernel: { name: 'micro-guest', bytes }, entry: 'protected', cmdline: '', memoryMiB: 4, ...more });

  async function counting(): Promise<Vm> {
    const vm = await made(COUNT);
    await vm.start();
    await goesOn(vm);
    return vm;
  }

  const counter = (vm: Vm): number => vm.memory.readU32(COUNTER);

  async function goesOn(vm: Vm): Promise<void> {
    const before = counter(vm);
    while (counter(vm) === before) await sleep(1);
    expect(vm.state).toBe('running');
  }

  async function stands(vm: Vm): Promise<void> {
    const before = counter(vm);
    await sleep(30);
    expect(counter(vm)).toBe(before);
    expect(vm.state).toBe('paused');
  }

  test('"The last word counts": of a pause and a resume that are said together', async () => {
    await using vm = await counting();
    for (let i = 0; i < ROUNDS; i++) {
      const pausing = vm.pause();
      await vm.resume();
      await pausing;
      await goesOn(vm);
      await vm.pause();
      const resuming = vm.resume();
      await vm.pause();
      await resuming;
      await stands(vm);
      await vm.resume();
    }
  });

  test('"it does not go on by itself then": a machine that is paused while it stands for a snapshot, a fork or a diagnosis', async () => {
    await using vm = await counting();
    const looks = [
      () => vm.snapshot(join(directory, 'paused')),
      async () => Promise.all((await vm.fork(1)).map((fork) => fork.stop())),
      () => vm.diagnose(),
    ];
    for (const look of looks) {
      const looking = look();
      while (vm.state === 'running') await sleep(0);
      await vm.pause();
      await looking;
      await stands(vm);
      await vm.resume();
      await goesOn(vm);
    }
  });

  test('"Looks … take turns": each finds the machine standing, and it goes on after the last', async () => {
    await using vm = await counting();
    const forks = (
      await Promise.all([vm.fork(1), vm.fork(2), vm.diagnose(), vm.snapshot(directory), vm.fork(1)])
    ).flatMap((result) => (Array.isArray(result) ? result : []));
    expect(forks).toHaveLength(4);
    for (const fork of forks) {
      await stands(fork);
      await fork.resume();
      await goesOn(fork);
      await fork.stop();
    }
    await goesOn(vm);
    const [, diagnosis] = await Promise.all([vm.pause(), vm.diagnose()]);
    expect(diagnosis).toBeDefined();
    await stands(vm);
  });

  test('"what ran before a look runs on after it": a step to an exit is still one', async () => {
    await using vm = await made(WAIT_AND_OUT);
    await vm.start();
    const { hold, release, threads } = vm.inspect();
    const [boot] = threads;
    if (boot === undefined) throw new Error('no vCPU');
    await hold();
    const stopped = new Promise((resolve) => (boot.onDebugStop = resolve));
    await release([0], [0]);
    await vm.diagnose();
    expect(vm.state).toBe('running');
    vm.memory.writeU32(GO, 1);
    expect(await stopped).toMatchObject({ kind: 'stepped' });
    const before = counter(vm);
    await sleep(30);
    expect(counter(vm)).toBe(before);
  });

  test('a stop that comes from within a step ends the machine', async () => {
    let stop = (): void => undefined;
    const device = { name: 'end', ports: { base: 0x99, length: 1 }, read: () => 0, write: () => stop() };
    const vm = await made(WAIT_AND_OUT, { devices: [device] });
    stop = () => void vm.stop();
    const { hold, release, threads } = vm.inspect();
    for (const thread of threads) thread.onDebugStop = () => undefined;
    await vm.start();
    await hold();
    vm.memory.writeU32(GO, 1);
    await release([0], [0]);
    expect(await vm.outcome).toEqual({ kind: 'stopped', by: 'host' });
  });

  test('nothing that is said after a stop keeps a vCPU', async () => {
    for (let i = 0; i < ROUNDS; i++) {
      const vm = await counting();
      const [boot] = vm.inspect().threads;
      const outcome = vm.stop();
      const parking = boot?.park();
      boot?.run();
      expect(await outcome).toEqual({ kind: 'stopped', by: 'host' });
      await parking;
      await boot?.park();
    }
  });

  test('a vCPU that is gone answers that it is', async () => {
    const vm = await counting();
    await vm.pause();
    await vm.stop();
    await expect(vm.vcpus[0]?.call('getRegs')).rejects.toThrow(/getRegs: the vCPU thread has ended/);
  });
});
