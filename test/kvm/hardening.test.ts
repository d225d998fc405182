// The addon against misuse: foreign objects, forged numbers, ends of threads, and nothing left behind.
// native/binding.cc: wrong use is a JavaScript exception, never a crash.
import { once } from 'node:events';
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import { describe, expect, test } from 'vitest';
import * as abi from '../../src/kvm/abi.js';
import { EventFd } from '../../src/kvm/event-fd.js';
import { kick, type KickToken } from '../../src/kvm/kick.js';
import { loadNative, type Handle, type Native } from '../../src/kvm/native.js';
import { noKvm } from '../support/kvm.js';
import type { KickWorkerData } from './kick-worker.js';
import { microGuest } from './micro-guest.js';

const native = loadNative();

/** What a live handle is not. */
const FOREIGN: readonly unknown[] = [
  undefined,
  null,
  0,
  3,
  '',
  'x',
  1n,
  {},
  [],
  Object.create(null),
  new Map(),
  () => 0,
  new Uint8Array(8),
  Symbol('x'),
];

function withHandles(action: (system: Handle<'system'>, vm: Handle<'vm'>, vcpu: Handle<'vcpu'>) => void): void {
  const system = native.open('/dev/kvm') as Handle<'system'>;
  const vm = native.createVm(system, 0) as Handle<'vm'>;
  const vcpu = native.createVcpu(vm, 0);
  if (typeof vcpu === 'number') throw new Error(`no vCPU: ${vcpu}`);
  action(system, vm, vcpu.handle);
  for (const handle of [vcpu.handle, vm, system]) native.close(handle);
}

function kvmFds(): string[] {
  return readdirSync('/proc/self/fd')
    .map((fd) => {
      try {
        return readlinkSync(`/proc/self/fd/${fd}`);
      } catch {
        return '';
      }
    })
    .filter((link) => /kvm|eventfd/.test(link))
    .toSorted();
}

function kvmMappings(): number {
  return readFileSync('/proc/self/maps', 'utf8')
    .split('\n')
    .filter((line) => line.includes('kvm-vcpu')).length;
}

describe.skipIf(noKvm)('the addon', () => {
  const functions = Object.keys(native) as (keyof Native)[];
  const call = (name: keyof Native, ...values: unknown[]): unknown => Reflect.apply(native[name], undefined, values);

  test('every function throws for a foreign object in the place of its handle or first argument', () => {
    const harmless = new Set(['threadCpuNanoseconds', 'threadId']);
    for (const name of functions.filter((it) => !harmless.has(it))) {
      for (const foreign of FOREIGN) {
        // A few foreign values are right for a few functions: paths, counts, fds, tokens, memory.
        const right =
          (/^(open|ramFile)$/.test(name) && foreign === 'x') ||
          (/createEventFd|adopt|kick|ioLock|ioSize|ramSeal|setTimeSlice/.test(name) && typeof foreign === 'number');
        if (!right) expect(() => call(name, foreign), `${name}(${typeof foreign})`).toThrow();
      }
      expect(() => call(name), `${name}()`).toThrow();
    }
  });

  test('a handle of another kind throws', () => {
    withHandles((system, vm, vcpu) => {
      for (const name of ['createVcpu', 'setMemory', 'dirtyLog', 'setMsrFilter'] as const)
        for (const handle of [system, vcpu]) expect(() => call(name, handle, 0), name).toThrow('a VM handle is needed');
      for (const handle of [vm, vcpu]) expect(() => call('createVm', handle, 0)).toThrow(TypeError);
      for (const name of ['becomeRunner', 'setSignalMask', 'getTscOffset', 'setTscOffset'] as const)
        for (const handle of [system, vm]) expect(() => call(name, handle), name).toThrow('a vCPU handle is needed');
      for (const name of ['addToEventFd', 'readEventFd', 'watch'] as const)
        for (const handle of [system, vm, vcpu]) expect(() => call(name, handle, 1n), name).toThrow(TypeError);
      for (const name of ['watchClose', 'watchRef', 'watchUnref'] as const)
        for (const handle of [system, vm, vcpu]) expect(() => call(name, handle), name).toThrow('a watcher is needed');
    });
  });

  test('a handle cannot be posted to another thread, a copy of it is nothing', () => {
    withHandles((_, vm) => {
      const copy = structuredClone(vm);
      expect(() => native.fdNumber(copy)).toThrow('a handle is needed');
      const heir = Object.create(vm) as Handle<'vm'>;
      expect(() => native.createVcpu(heir, 1)).toThrow();
    });
  });

  test('ioctl: the buffer must hold what the number says', () => {
    withHandles((_, vm, vcpu) => {
      for (const length of [0, 1, 143])
        expect(() => native.ioctl(vcpu, abi.KVM_GET_REGS, new Uint8Array(length))).toThrow(RangeError);
      expect(native.ioctl(vcpu, abi.KVM_GET_REGS, new Uint8Array(144))).toBe(0);
      expect(() => native.ioctl(vcpu, abi.KVM_GET_REGS, 4096)).toThrow(/takes a buffer/);
      expect(() => native.ioctl(vcpu, abi.KVM_GET_REGS)).toThrow(/takes a buffer/);
      expect(() => native.ioctl(vcpu, abi.KVM_NMI, new Uint8Array(8))).toThrow(/takes an integer/);
      const detached = new Uint8Array(144);
      structuredClone(detached, { transfer: [detached.buffer] });
      expect(() => native.ioctl(vcpu, abi.KVM_GET_REGS, detached)).toThrow(RangeError);
      const shared = new Uint8Array(new SharedArrayBuffer(144));
      expect(() => native.ioctl(vcpu, abi.KVM_GET_REGS, shared)).toThrow(/must not lie in shared memory/);
      for (const wrong of [new Uint16Array(72), new DataView(new ArrayBuffer(144)), 'x', {}, 1n, null])
        expect(() => native.ioctl(vcpu, abi.KVM_GET_REGS, wrong as Uint8Array)).toThrow(TypeError);
      expect(native.ioctl(vm, abi.KVM_GET_REGS, new Uint8Array(144))).toBe(-25); // ENOTTY: not on a VM
    });
  });

  test('ioctl: a count beyond the buffer is refused, for every counted call', () => {
    withHandles((system, vm, vcpu) => {
      const counted = [
        [system, abi.KVM_GET_MSR_INDEX_LIST, 0],
        [system, abi.KVM_GET_MSR_FEATURE_INDEX_LIST, 0],
        [system, abi.KVM_GET_SUPPORTED_CPUID, 0],
        [system, abi.KVM_GET_EMULATED_CPUID, 0],
        [system, abi.KVM_GET_MSRS, 0],
        [vcpu, abi.KVM_GET_MSRS, 0],
        [vcpu, abi.KVM_SET_MSRS, 0],
        [vcpu, abi.KVM_SET_CPUID2, 0],
        [vcpu, abi.KVM_GET_CPUID2, 0],
        [vcpu, 0x4008ae8a, 0], // KVM_SET_CPUID
        [vcpu, 0xc080aebe, 4], // KVM_GET_NESTED_STATE
        [vm, abi.KVM_SET_GSI_ROUTING, 0],
        [vm, 0x4020aeb2, 4], // KVM_SET_PMU_EVENT_FILTER
      ] as const;
      for (const [handle, number, offset] of counted) {
        for (const count of [200, 0x7fff_ffff, 0xffff_ffff]) {
          const bytes = new Uint8Array(128);
          new DataView(bytes.buffer).setUint32(offset, count, true);
          expect(() => native.ioctl(handle, number, bytes), number.toString(16)).toThrow(/count of entries/);
        }
      }
    });
  });

  test("ioctl: calls that pass pointers, other drivers' calls and numbers that are none are refused", () => {
    withHandles((system, vm, vcpu) => {
      for (const [handle, number] of [
        [vm, abi.KVM_SET_USER_MEMORY_REGION],
        [vm, abi.KVM_GET_DIRTY_LOG],
        [vm, abi.KVM_X86_SET_MSR_FILTER],
        [vcpu, abi.KVM_SET_SIGNAL_MASK],
        [vcpu, 0x8000aecf], // KVM_GET_XSAVE2 with a doctored size
        [vm, 0xffff0000 + 0xae46],
      ] as const)
        expect(() => native.ioctl(handle, number, new Uint8Array(0x4000)), number.toString(16)).toThrow(RangeError);
      for (const number of [abi.KVM_RUN, abi.KVM_CREATE_VCPU, abi.KVM_CREATE_VM, 0x5401, -1, 0.5, Number.NaN, 2 ** 32])
        expect(() => native.ioctl(system, number, 0), String(number)).toThrow(RangeError);
      for (const argument of [-1, 0.5, Number.NaN, Number.POSITIVE_INFINITY, 2 ** 53])
        expect(() => native.ioctl(system, abi.KVM_CHECK_EXTENSION, argument)).toThrow(RangeError);
    });
  });

  test('nested state: the wrapperless call answers, or says that the host has none', () => {
    withHandles((_, vm, vcpu) => {
      const bytes = new Uint8Array(16 << 10);
      new DataView(bytes.buffer).setUint32(4, bytes.length, true);
      const supported = native.ioctl(vm, abi.KVM_CHECK_EXTENSION, abi.KVM_CAP_NESTED_STATE) > 0;
      const result = native.ioctl(vcpu, 0xc080aebe, bytes);
      if (supported) expect(result).toBe(0);
      else expect(result).toBeLessThan(0);
    });
  });

  test('an MSR filter whose getters misbehave is refused or harmless', () => {
    withHandles((_, vm) => {
      const bitmap = new Uint8Array(64);
      const range = {
        flags: 1,
        base: 0,
        get nmsrs() {
          structuredClone(bitmap, { transfer: [bitmap.buffer] });
          return 512;
        },
        bitmap,
      };
      expect(() => native.setMsrFilter(vm, 0, [range])).toThrow(/shorter than its nmsrs/);
      const thrower = {
        get flags(): number {
          throw new Error('from the getter');
        },
      };
      expect(() => native.setMsrFilter(vm, 0, [thrower as never])).toThrow('from the getter');
    });
  });

  test('the shared page cannot be transferred away', () => {
    using guest = microGuest();
    const { runBuffer } = guest.vcpu;
    try {
      // Node 20 copies instead, later ones throw.
      structuredClone(runBuffer, { transfer: [runBuffer] });
    } catch (error) {
      expect(error).toHaveProperty('name', 'DataCloneError');
    }
    expect(runBuffer.byteLength).toBe(guest.system.vcpuMmapSize);
  });

  test('a page that was detached nevertheless stays mapped until nobody sees it', () => {
    using guest = microGuest();
    const { runBuffer } = guest.vcpu;
    // Node 22 has ArrayBuffer.prototype.transfer; on 20 there is no way to do it.
    const transfer = (runBuffer as { transfer?: () => ArrayBuffer }).transfer;
    if (transfer === undefined) return;
    const moved = new Uint8Array(Reflect.apply(transfer, runBuffer, []));
    guest.vcpu.close();
    expect(moved[8]).toBeTypeOf('number');
  });

  // The emulated SVM host takes half a second for each.
  const cycles = process.env['MICROVISOR_HOST'] === 'svm' ? 40 : 200;
  test(`${cycles} times create and close leave no descriptor and no mapping`, () => {
    const fds = kvmFds();
    const mappings = kvmMappings();
    for (let i = 0; i < cycles; i++) {
      using guest = microGuest({ code: [0xf4] });
      guest.vcpu.becomeRunner();
      guest.vcpu.enter();
      EventFd.create().close();
    }
    expect(kvmMappings()).toBe(mappings);
    expect(kvmFds()).toEqual(fds);
  });

  test('a worker that is terminated with everything open leaves nothing, and its vCPU cannot be kicked', async () => {
    using guest = microGuest({ code: [0xeb, 0xfe] });
    const round = async (id: number): Promise<void> => {
      const words = new Int32Array(new SharedArrayBuffer(64));
      const workerData: KickWorkerData = { vmFd: guest.vm.fd, ids: [id], words, leak: true };
      const worker = new Worker(new URL('./kick-worker.js', import.meta.url), { workerData });
      const [[token = 0]] = (await once(worker, 'message')) as [KickToken[]];
      Atomics.store(words, 0, 1);
      const done = once(worker, 'message');
      kick(token);
      await done;
      await worker.terminate();
      expect(kick(token)).toBe(false);
    };
    await round(1);
    const fds = kvmFds();
    const mappings = kvmMappings();
    for (let id = 2; id < 6; id++) await round(id);
    expect(kvmMappings()).toBe(mappings);
    expect(kvmFds()).toEqual(fds);
  });

  test('what is dropped without a close is closed by the collector', async () => {
    const collect = globalThis.gc;
    const fds = kvmFds();
    const drop = (): void => {
      for (let i = 0; i < 10; i++) {
        const system = native.open('/dev/kvm') as Handle<'system'>;
        const vm = native.createVm(system, 0) as Handle<'vm'>;
        native.createVcpu(vm, 0);
        EventFd.create();
      }
    };
    drop();
    expect(kvmFds().length).toBeGreaterThan(fds.length);
    for (let i = 0; i < 200 && kvmFds().length > fds.length; i++) {
      if (collect) collect();
      else Array.from({ length: 200 }, () => Array.from({ length: 1000 }, () => i));
      await sleep(5);
    }
    expect(kvmFds().length).toBeLessThanOrEqual(fds.length);
  });
});
