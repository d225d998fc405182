// The isolated costs of an exit, in a process that was started with a KVM that does nothing.
// Started by isolated.ts; the answer is an Isolated as JSON.
import { readFileSync } from 'node:fs';
import { getHeapStatistics } from 'node:v8';
import { PerformanceObserver } from 'node:perf_hooks';
import { setTimeout as sleep } from 'node:timers/promises';
import { do_not_optimize, measure } from 'mitata';
import { Bus, type IoHandler } from '../../src/devices/bus.js';
import { RegisterTable } from '../../src/devices/register-table.js';
import { KVM_EXIT_IO, KVM_EXIT_MMIO } from '../../src/kvm/abi.js';
import { KVM_RUN_OFFSET as AT } from '../../src/kvm/kvm-run.js';
import { System } from '../../src/kvm/system.js';
import type { VcpuFd } from '../../src/kvm/vcpu-fd.js';
import { GuestMemory } from '../../src/memory/guest-memory.js';
import { ExitStatistics } from '../../src/vcpu/observe/statistics.js';
import { Vcpu } from '../../src/vcpu/vcpu.js';
import { GUEST, MODE, OP } from './guest.js';
import type { HeapGrowth, Isolated, IsolatedCost } from './isolated.js';
import { createMachine, Rig } from './rig.js';

/** Calls that are timed together: a clock's reading takes longer than a call. */
const CALLS = 1000;
/** A compiler that is late allocates in the first one. */
const ATTEMPTS = 2;
const REGISTERS = 16;

const guest = readFileSync(process.argv[3] ?? '');
const exits = Number(process.argv[2]);
const costs: IsolatedCost[] = [];
let collections = 0;
new PerformanceObserver((list) => (collections += list.getEntries().length)).observe({ entryTypes: ['gc'] });

// The first of several alike is compiled for itself alone: it is not counted.
await measure(lookUp(4), { min_cpu_time: 1e9 });
await measure(lookUp(8), { min_cpu_time: 1e9 });
for (const handlers of [4, 40, 400])
  await cost(`bus-${handlers}`, `bus look-up, ${handlers} handlers`, lookUp(handlers));
await cost('enter', "the addon's run() on a KVM that does nothing", enterAlone());
for (const [id, title, make] of [
  ['dispatch-port', 'dispatch of a port write, without run()', () => dispatchAlone(KVM_EXIT_IO)],
  ['dispatch-mmio', 'dispatch of an MMIO write, without run()', () => dispatchAlone(KVM_EXIT_MMIO)],
] as const)
  await cost(id, title, make());
await cost('register-row', 'register access, table of rows', registerAccess(registerRows()));
await cost('register-switch', 'register access, switch', registerAccess(registerSwitch()));

const heap: Record<string, HeapGrowth> = {};
// The first of all meets the compiler at its work.
await heapGrowth(OP.portWrite);
for (const [id, op] of [
  ['port-write', OP.portWrite],
  ['port-read', OP.portRead],
  ['mmio-write', OP.mmioWrite],
  ['mmio-read', OP.mmioRead],
] as const)
  heap[id] = await heapGrowth(op);
process.stdout.write(`${JSON.stringify({ costs, heap } satisfies Isolated)}\n`);
process.exit(0);

async function cost(id: string, title: string, calls: () => unknown): Promise<void> {
  const { p50, p99 } = await measure(() => do_not_optimize(calls()), { min_cpu_time: 3e8 });
  costs.push({ id, title, ns: p50 / CALLS, p99: p99 / CALLS });
}

function vcpuFd(): VcpuFd {
  const memory = GuestMemory.create(GUEST.ramBytes);
  memory.writeU32(GUEST.mailbox.count, 0xffff_ffff);
  const vm = createMachine(System.open(), memory, guest);
  // A VM that nothing refers to is closed by the collector, under its vCPU.
  process.once('exit', () => vm.close());
  return vm.createVcpu(0);
}

function enterAlone(): () => unknown {
  const fd = vcpuFd();
  const { enter, lastErrno } = fd;
  return () => {
    for (let i = 0; i < CALLS; i++) enter();
    return lastErrno[0];
  };
}

/** The run loop over an `enter` in JavaScript that leaves the same exit each time, and at last asks for the end. */
function dispatchAlone(reason: number): () => unknown {
  const fd = vcpuFd();
  const { u8, u16, u32 } = fd.run;
  u32[AT.exit_reason >> 2] = reason;
  if (reason === KVM_EXIT_IO) {
    u8[AT.io.direction] = 1;
    u8[AT.io.size] = 1;
    u16[AT.io.port >> 1] = GUEST.port;
    u32[AT.io.count >> 2] = 1;
    u32[AT.io.data_offset >> 2] = 4096;
  } else {
    u32[AT.mmio.phys_addr >> 2] = GUEST.mmio + GUEST.written;
    u32[AT.mmio.len >> 2] = 4;
    u8[AT.mmio.is_write] = 1;
  }
  const pending = new Int32Array(new SharedArrayBuffer(4));
  let left = 0;
  const enter = (): void => {
    untimed[0] = (untimed[0] as number) - 1;
    if (--left === 0) pending[0] = 1;
  };
  const { run, stamps, untimed, lastErrno, id } = fd;
  const pio = Bus.ports();
  const mmio = Bus.mmio();
  const registers = registerRows();
  pio.attach(GUEST.port, 1, registers);
  mmio.attach(GUEST.mmio, 0x200, registers);
  const statistics = new ExitStatistics(ExitStatistics.allocate());
  const stub = { run, stamps, untimed, lastErrno, id, enter, now: () => 0 } as unknown as VcpuFd;
  const vcpu = new Vcpu({ fd: stub, pio, mmio, pending, statistics });
  return () => {
    left = CALLS;
    pending[0] = 0;
    return vcpu.run();
  };
}

function lookUp(handlers: number): () => unknown {
  const bus = Bus.mmio();
  // One device at all places: what is looked at is the way to it, not how much memory four hundred of them have.
  const device: IoHandler = { name: 'any', read: () => 0, write: () => undefined };
  // Whole pages, as virtio's windows are.
  for (let i = 0; i < handlers; i++) bus.attach(0xd000_0000 + i * 0x1000, 0x1000, device);
  // The devices take turns: neither the first nor the last one only.
  const addresses = Float64Array.from({ length: 1024 }, (_, i) => 0xd000_0000 + ((i * 7) % handlers) * 0x1000);
  return () => {
    for (let i = 0; i < CALLS; i++) bus.write(addresses[i] as number, 4, i);
  };
}

function registerRows(): IoHandler {
  const values = new Uint32Array(REGISTERS);
  return new RegisterTable(
    'rows',
    Array.from({ length: REGISTERS }, (_, i) => ({
      offset: i * 4,
      name: `R${i}`,
      size: 4 as const,
      read: () => values[i] as number,
      write: (value: number) => {
        values[i] = value;
      },
    })),
  );
}

function registerSwitch(): IoHandler {
  const values = new Uint32Array(REGISTERS);
  return {
    name: 'switch',
    read: (offset) => values[offset >> 2] as number,
    write: (offset, size, value) => {
      if (size !== 4) return;
      switch (offset) {
        case 0:
          values[0] = value;
          break;
        case 4:
          values[1] = value;
          break;
        case 8:
          values[2] = value;
          break;
        case 12:
          values[3] = value;
          break;
        case 16:
          values[4] = value;
          break;
        case 20:
          values[5] = value;
          break;
        case 24:
          values[6] = value;
          break;
        default:
          values[7] = value;
      }
    },
  };
}

function registerAccess(handler: IoHandler): () => unknown {
  return () => {
    for (let i = 0; i < CALLS; i++) handler.write((i & 7) * 4, 4, i);
  };
}

async function heapGrowth(op: number): Promise<HeapGrowth> {
  const rig = new Rig({ guest, op, mode: MODE.long, feature: 'none', statistics: true, trace: false, koffi: false });
  // What the compiler allocates is not the exits'.
  for (let i = 0; i < 20; i++) rig.batch(50_000, false);
  await sleep(100);
  const attempts: HeapGrowth[] = [];
  for (let i = 0; i < ATTEMPTS; i++) {
    globalThis.gc?.();
    await sleep(0);
    collections = 0;
    const before = getHeapStatistics().used_heap_size;
    rig.batch(exits, false);
    const bytes = getHeapStatistics().used_heap_size - before;
    await sleep(0);
    attempts.push({ exits, bytes, collections });
  }
  rig.close();
  const [least] = attempts.toSorted((a, b) => a.bytes + a.collections * 2 ** 30 - (b.bytes + b.collections * 2 ** 30));
  return least as HeapGrowth;
}
