// Errors say call, errno, object and remedy; opening what is no kvm device is refused in one sentence.
// errno(3); KVM API 4.1.
import { expect, test } from 'vitest';
import { KvmError } from '../../../src/kvm/errors.js';
import { System } from '../../../src/kvm/system.js';

function failure(action: () => unknown): KvmError {
  try {
    action();
  } catch (error) {
    if (error instanceof KvmError) return error;
    throw error;
  }
  throw new Error('nothing was thrown');
}

test('an error says what was attempted, on what, what the kernel answered, and what to do', () => {
  const error = new KvmError('KVM_CREATE_VCPU', 17, 'vCPU 3');
  expect(error.message).toMatch(/^KVM_CREATE_VCPU on vCPU 3: EEXIST \(file already exists\); each vCPU needs an id/);
  expect(error).toMatchObject({ call: 'KVM_CREATE_VCPU', errno: 17, code: 'EEXIST' });
  expect(error.remedy).toMatch(/id of its own/);
});

test('without a known remedy there is none', () => {
  const error = new KvmError('KVM_RUN', 14, 'vCPU 0');
  expect(error.message).toBe('KVM_RUN on vCPU 0: EFAULT (bad address in system call argument)');
  expect('remedy' in error).toBe(false);
});

test('an unknown errno keeps its number', () => {
  expect(new KvmError('KVM_RUN', 4000, 'vCPU 0').code).toBe('errno 4000');
});

test('a missing /dev/kvm names the modules, the firmware, and the host without KVM', () => {
  const error = failure(() => System.open('/dev/no-such-device'));
  expect(error.code).toBe('ENOENT');
  expect(error.message).toMatch(/firmware.*modprobe kvm_intel.*npm run svm-host -- COMMAND/);
});

test('a missing permission names the group', () => {
  expect(new KvmError('open', 13, '/dev/kvm').remedy).toMatch(/group.*usermod -aG kvm/);
});

test.each(['/dev/null', '/dev/zero'])('%s is not KVM', (path) => {
  const error = failure(() => System.open(path));
  expect(error).toMatchObject({ call: 'KVM_GET_API_VERSION', code: 'ENOTTY' });
  expect(error.message).toMatch(/this is not KVM/);
});

test('a directory is refused', () => {
  expect(failure(() => System.open('/'))).toMatchObject({ call: 'open', code: 'EISDIR' });
});

test.each(['', '/dev/kvm\0', 7, undefined, null, {}])('%j is no path', (path) => {
  // undefined takes the default, so it is passed on as an array-like that is no string either.
  expect(() => System.open((path ?? []) as string)).toThrow(TypeError);
});
