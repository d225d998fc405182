// KVM_RUN through koffi: what an exit path over a foreign function interface costs.
// KVM API 4.10; proc(5) for the number of the vCPU's descriptor, which the library does not show.
import { readdirSync, readlinkSync } from 'node:fs';
import koffi from 'koffi';
import { KVM_RUN } from '../../src/kvm/abi.js';
import type { VcpuFd } from '../../src/kvm/vcpu-fd.js';

/** The same vCPU with another `enter`. Its stamps stay as they are. @throws Error when its descriptor is not found */
export function koffiEnter(fd: VcpuFd): VcpuFd {
  const number = readdirSync('/proc/self/fd').find((entry) => linkOf(entry).includes(`kvm-vcpu:${fd.id}`));
  if (number === undefined) throw new Error(`no descriptor of vCPU ${fd.id} in /proc/self/fd`);
  // Not libc by its name: what is preloaded comes first.
  const ioctl = koffi.load(null).func('int ioctl(int, unsigned long, intptr_t)') as (
    fd: number,
    call: number,
    argument: number,
  ) => number;
  const vcpu = Number(number);
  const { lastErrno } = fd;
  const enter = (): void => {
    lastErrno[0] = ioctl(vcpu, KVM_RUN, 0) < 0 ? koffi.errno() : 0;
  };
  // The other members, which have private state, stay with the object that they belong to.
  return new Proxy(fd, {
    get: (target, name) => {
      if (name === 'enter') return enter;
      const value: unknown = Reflect.get(target, name, target);
      return typeof value === 'function' ? (value.bind(target) as unknown) : value;
    },
  });
}

function linkOf(entry: string): string {
  try {
    return readlinkSync(`/proc/self/fd/${entry}`);
  } catch {
    // The directory's own descriptor is closed by now.
    return '';
  }
}
