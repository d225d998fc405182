// Puts one vCPU together on the thread that runs it: processor model, statistics, coalesced ring, remedies, run loop.
// The only place of this floor that knows all its parts; the worker and the inline lessons both come through here.
import type { GuestMemory } from '../memory/guest-memory.js';
import type { VcpuFd } from '../kvm/vcpu-fd.js';
import { createAssist, type Assist } from './assist/assist.js';
import { CoalescedRing } from './coalesced-ring.js';
import { configureVcpu } from './cpu-model/configure.js';
import { Debugger } from './debugger.js';
import { GuestDebug } from './guest-debug.js';
import { ExitStatistics } from './observe/statistics.js';
import { Vcpu } from './vcpu.js';
import { LOCK, type VcpuAssembly, type VcpuBuses } from './worker-protocol.js';

export interface AssembledVcpu {
  readonly vcpu: Vcpu;
  /** Present only on a host with quirks. */
  readonly assist: Assist | undefined;
  readonly debug: Debugger;
}

export function assembleVcpu(fd: VcpuFd, memory: GuestMemory, buses: VcpuBuses, assembly: VcpuAssembly): AssembledVcpu {
  configureVcpu({
    vcpu: fd,
    supportedCpuid: assembly.supportedCpuid,
    index: assembly.index,
    cpus: assembly.cpus,
    quirks: assembly.quirks,
  });
  const guestDebug = new GuestDebug(fd);
  const debug = new Debugger(fd, memory, guestDebug);
  const assist =
    assembly.quirks.length === 0
      ? undefined
      : createAssist({
          vcpu: fd,
          memory,
          quirks: assembly.quirks,
          guestDebug,
          ownsInt3: (linear) => debug.ownsInt3(linear),
          counters: new Float64Array(assembly.assists),
          lock: new Int32Array(assembly.locks, LOCK.CMPXCHG16B * 4, 1),
        });
  const vcpu = new Vcpu({
    fd,
    pio: buses.pio,
    mmio: buses.mmio,
    pending: buses.pending,
    statistics: new ExitStatistics(assembly.statistics),
    coalesced: new CoalescedRing(fd, new Int32Array(assembly.locks, LOCK.COALESCED_RING * 4, 1), buses.pio, buses.mmio),
    ...(assembly.trace === undefined ? {} : { trace: assembly.trace }),
    ...(assist === undefined ? {} : { assist }),
  });
  return { vcpu, assist, debug };
}
