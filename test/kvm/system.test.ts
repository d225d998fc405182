// The ioctls of /dev/kvm against the real kernel.
// KVM API 4.1 to 4.5, 4.18, 4.46.
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { KVM_CAP_NR_MEMSLOTS, KVM_CAP_USER_MEMORY } from '../../src/kvm/abi.js';
import { KvmError } from '../../src/kvm/errors.js';
import { MSR_IA32_TSC, MSR_STAR } from '../../src/kvm/msr.js';
import { System } from '../../src/kvm/system.js';
import { noKvm } from '../support/kvm.js';

describe.skipIf(noKvm)('System', () => {
  let system: System;
  beforeAll(() => {
    system = System.open();
  });
  afterAll(() => system.close());

  test('KVM_GET_API_VERSION: "Applications should refuse to run if KVM_GET_API_VERSION returns a value other than 12"', () => {
    expect(system.apiVersion).toBe(12);
  });

  test('KVM_GET_VCPU_MMAP_SIZE: kvm_run, port data and the coalesced ring', () => {
    expect(system.vcpuMmapSize).toBe(3 * 4096);
  });

  test('KVM_CHECK_EXTENSION: "0 if unsupported; 1 (or some other positive integer) if supported"', () => {
    expect(system.checkExtension(KVM_CAP_USER_MEMORY)).toBe(1);
    expect(system.checkExtension(KVM_CAP_NR_MEMSLOTS)).toBeGreaterThanOrEqual(32);
    expect(system.checkExtension(0xffff)).toBe(0);
    for (const cap of [-1, 0.5, Number.NaN, 2 ** 53]) expect(() => system.checkExtension(cap)).toThrow(RangeError);
  });

  test('KVM_CREATE_VM: "The new VM has no virtual cpus and no memory"', () => {
    using vm = system.createVm();
    expect(vm.fd).toBeGreaterThan(2);
    expect(() => system.createVm(0xff)).toThrow(/KVM_CREATE_VM on type 255: EINVAL .*; the VM type/);
    expect(() => system.createVm(-1)).toThrow(RangeError);
  });

  test('KVM_GET_SUPPORTED_CPUID: leaf 0 names the highest leaf, leaf 0x40000000 is KVM', () => {
    const entries = system.supportedCpuid();
    const highest = entries.find((entry) => entry.function === 0);
    expect(highest?.eax).toBeGreaterThanOrEqual(1);
    const hypervisor = entries.find((entry) => entry.function === 0x40000000);
    expect([hypervisor?.ebx, hypervisor?.ecx, hypervisor?.edx]).toEqual([0x4b4d564b, 0x564b4d56, 0x4d]);
    for (const entry of entries)
      for (const value of Object.values(entry)) expect(value).toSatisfy((n: number) => n === n >>> 0);
  });

  test('KVM_GET_MSR_INDEX_LIST: "the list of guest msrs that are supported"', () => {
    const indices = system.msrIndexList();
    expect(indices).toContain(MSR_IA32_TSC);
    expect(indices).toContain(MSR_STAR);
  });

  test('KVM_GET_MSR_FEATURE_INDEX_LIST and KVM_GET_MSRS on the device', () => {
    const indices = system.msrFeatureIndexList();
    // Some hosts list one that they cannot read (without VMX its capability MSRs): then the error must name it.
    for (const index of indices) {
      try {
        const [entry] = system.getMsrFeatures([index]);
        expect(entry).toEqual({ index, data: expect.any(BigInt) });
      } catch (error) {
        expect(error).toBeInstanceOf(KvmError);
        expect(String(error)).toContain(`feature MSR 0x${index.toString(16)}`);
      }
    }
    expect(() => system.getMsrFeatures([0x1234_5678])).toThrow(/KVM_GET_MSRS on feature MSR 0x12345678: EINVAL/);
  });

  test('every use of a closed one throws, and so does a second close', () => {
    const closed = System.open();
    closed.close();
    for (const use of [
      () => closed.close(),
      () => closed.createVm(),
      () => closed.checkExtension(0),
      () => closed.supportedCpuid(),
      () => closed.msrIndexList(),
    ])
      expect(use).toThrow('the handle is closed');
    expect(() => closed[Symbol.dispose]()).not.toThrow();
  });
});
