// One vCPU as the owner of its machine sees it: counters and the trace, live; calls while it is parked.
import type { VcpuCallArguments, VcpuCallName, VcpuCallResult } from '../vcpu/calls.js';
import type { ExitStatistics } from '../vcpu/observe/statistics.js';
import { TraceReader } from '../vcpu/observe/trace-reader.js';
import type { Machine } from './machine.js';

/** One vCPU as its owner sees it. */
export interface VcpuHandle {
  readonly index: number;
  /** KVM_RUN calls so far; live. */
  readonly entries: number;
  /** Processor time of its thread so far, in the guest and in the host; live, 0 once the thread is gone. */
  readonly cpuNanoseconds: number;
  /** Its last exits, live; undefined unless the configuration has `trace`. */
  readonly trace: TraceReader | undefined;
  /**
   * Asks the parked vCPU: registers, MSRs, a capture of its state (see VCPU_CALLS).
   * @throws Error while the machine runs: pause it first
   */
  call<N extends VcpuCallName>(call: N, ...args: VcpuCallArguments<N>): Promise<VcpuCallResult<N>>;
}

/** By vCPU. */
export function vcpuHandles({
  threads,
  statistics,
  traces,
}: Pick<Machine, 'threads' | 'statistics' | 'traces'>): readonly VcpuHandle[] {
  return threads.map((thread, index) => {
    const ring = traces[index];
    return {
      index,
      get entries() {
        return (statistics[index] as ExitStatistics).entries;
      },
      get cpuNanoseconds() {
        return thread.cpuNanoseconds;
      },
      trace: ring && new TraceReader(ring),
      call: (call, ...args) => thread.call(call, ...args),
    };
  });
}
