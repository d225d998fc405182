// A machine as its debugger sees it: all vCPUs stop together, and each goes on, or makes one step, when it is told.
// GDB manual, "All-Stop Mode"; KVM API 4.87. The vCPUs' half is vcpu/debugger.ts.
import type { GuestMemory } from '../memory/guest-memory.js';
import { linearOf, NO_DEBUGGER, type DebugEvent } from '../vcpu/debugger.js';
import { Points, type DebugFacilities } from '../vcpu/gdb/points.js';
import { FX_BYTES, writtenSregs, type RegisterState } from '../vcpu/gdb/registers.js';
import {
  GdbRefusal,
  type GdbStop,
  type GdbTarget,
  type Point,
  type PointResult,
  type ThreadAction,
  type ThreadIndex,
} from '../vcpu/gdb/target.js';
import { readLinear, writeLinear } from '../vcpu/paging.js';
import { answerMonitor } from './gdb-monitor.js';
import type { VcpuThread } from './vcpu-thread.js';

/** What a debugger needs of the machine's life. */
export interface DebuggedMachine {
  readonly threads: readonly VcpuThread[];
  readonly memory: GuestMemory;
  readonly facilities: DebugFacilities;
  /** Stops every vCPU; the machine's owner cannot resume it until `release`. Resolves when all are parked. */
  hold(): Promise<void>;
  /** Lets these vCPUs run, once the machine has been started; those of `toExit` until one exit has been served. */
  release(indices: readonly number[], toExit?: readonly number[]): Promise<void>;
  kill(): void;
}

/** XSTATE_BV of the XSAVE area: x87 and SSE have a state that counts. */
const XSTATE_BV = 512;
const X87_AND_SSE = 3;

export class MachineTarget implements GdbTarget {
  readonly #points: Points;
  /** Resolves the `resume` under way. */
  #onStop: ((stop: GdbStop) => void) | undefined;
  /** Stops of vCPUs that came while another one's was being told, and that would not come again by themselves. */
  #left: GdbStop[] = [];
  #ended: GdbStop | undefined;

  constructor(private readonly machine: DebuggedMachine) {
    this.#points = new Points(machine.memory, machine.facilities);
    for (const [index, thread] of machine.threads.entries())
      thread.onDebugStop = (event) => this.#take(stopOf(index, event));
  }

  get threads(): number {
    return this.machine.threads.length;
  }

  async resume(actions: ReadonlyMap<ThreadIndex, ThreadAction>): Promise<GdbStop> {
    if (this.#ended !== undefined) return this.#ended;
    const left = this.#left.shift();
    if (left !== undefined) return left;
    // Before anything waits: an interrupt counts from here on, though no vCPU runs yet.
    const stopped = new Promise<GdbStop>((resolve) => (this.#onStop = resolve));
    try {
      await this.#arm(actions);
    } catch (error) {
      this.#onStop = undefined;
      throw error;
    }
    // An instruction that exits is at its end when that has been served: KVM's emulator forgets then that it is to stop.
    const toExit = [...actions].flatMap(([index, action]) => (action === 'continue' ? [] : [index]));
    if (this.#onStop !== undefined) await this.machine.release([...actions.keys()], toExit);
    const stop = await stopped;
    if (stop.kind !== 'ended') await this.machine.hold();
    return stop;
  }

  interrupt(): void {
    this.#stop({ kind: 'interrupted', thread: 0 });
  }

  /** The machine is gone, or going: nothing can be asked of it any more. */
  end(status: number): void {
    this.#ended = { kind: 'ended', status };
    this.#stop(this.#ended);
  }

  /** Takes everything back that the debugger has put into the guest, and lets the guest go on without it. */
  async detach(): Promise<void> {
    if (this.#ended !== undefined) return;
    await this.machine.hold();
    this.#points.removeAll();
    this.#left = [];
    for (const thread of this.machine.threads) {
      thread.onDebugStop = undefined;
      await thread.call('setDebugger', NO_DEBUGGER);
    }
    await this.machine.release([...this.machine.threads.keys()]);
  }

  async readRegisters(index: ThreadIndex): Promise<RegisterState> {
    const thread = this.#thread(index);
    const [regs, sregs, xsave] = await Promise.all([
      thread.call('getRegs'),
      thread.call('getSregs'),
      thread.call('getXsave'),
    ]);
    return { regs, sregs, fx: xsave.slice(0, FX_BYTES) };
  }

  async writeRegisters(index: ThreadIndex, state: RegisterState): Promise<void> {
    const thread = this.#thread(index);
    await thread.call('setRegs', state.regs);
    await thread.call('setSregs', writtenSregs(state));
    const xsave = await thread.call('getXsave');
    xsave.set(state.fx);
    xsave[XSTATE_BV] = (xsave[XSTATE_BV] as number) | X87_AND_SSE;
    await thread.call('setXsave', xsave);
  }

  async readMemory(index: ThreadIndex, address: bigint, length: number): Promise<Uint8Array> {
    const sregs = await this.#thread(index).call('getSregs');
    return this.#points.withoutInt3(() => readLinear(this.machine.memory, sregs, address, length).slice());
  }

  async writeMemory(index: ThreadIndex, address: bigint, bytes: Uint8Array): Promise<boolean> {
    const sregs = await this.#thread(index).call('getSregs');
    return this.#points.withoutInt3(() => writeLinear(this.machine.memory, sregs, address, bytes));
  }

  async insert(index: ThreadIndex, point: Point): Promise<PointResult> {
    return this.#points.insert(point, await this.#thread(index).call('getSregs'));
  }

  remove(point: Point): void {
    this.#points.remove(point);
  }

  monitor(index: ThreadIndex, text: string): Promise<string> {
    return answerMonitor(text, {
      thread: this.#thread(index),
      memory: this.machine.memory,
      facilities: this.machine.facilities,
    });
  }

  kill(): void {
    this.machine.kill();
  }

  async #arm(actions: ReadonlyMap<ThreadIndex, ThreadAction>): Promise<void> {
    for (const [index, action] of actions) if (action === 'step') await this.#checkStep(index);
    const request = { ...NO_DEBUGGER, isAttached: true, ...this.#points.request() };
    for (const [index, action] of actions)
      await this.#thread(index).call('setDebugger', { ...request, step: action === 'step' });
  }

  #thread(index: ThreadIndex): VcpuThread {
    return this.machine.threads[index] as VcpuThread;
  }

  #take(stop: GdbStop): void {
    if (this.#onStop !== undefined) this.#stop(stop);
    // A breakpoint is hit again when its vCPU goes on; what it has done already is not done again.
    else if (stop.kind === 'watchpoint' || stop.kind === 'failed') this.#left.push(stop);
  }

  #stop(stop: GdbStop): void {
    const resolve = this.#onStop;
    this.#onStop = undefined;
    resolve?.(stop);
  }

  // Where a step at CPL 3 reaches the guest, it would kill the program that runs there.
  async #checkStep(index: ThreadIndex): Promise<void> {
    if (this.machine.facilities.steps) return;
    const thread = this.#thread(index);
    const [{ rip }, sregs] = await Promise.all([thread.call('getRegs'), thread.call('getSregs')]);
    if (sregs.ss.dpl === 3)
      throw new GdbRefusal("this host's KVM cannot step code at CPL 3; set a breakpoint in the kernel and continue");
    const code = this.#points.withoutInt3(() =>
      readLinear(this.machine.memory, sregs, linearOf(rip, sregs), 3).slice(),
    );
    if (returnsToUser(code))
      throw new GdbRefusal("this instruction returns to CPL 3, where this host's KVM cannot step; continue instead");
  }
}

/** IRET and SYSRET, with or without REX.W. */
function returnsToUser(code: Uint8Array): boolean {
  const [first = 0, second = 0, third = 0] = code;
  const isPrefixed = (first & 0xf0) === 0x40;
  const [opcode, next] = isPrefixed ? [second, third] : [first, second];
  return opcode === 0xcf || (opcode === 0x0f && (next === 0x07 || next === 0x35));
}

function stopOf(thread: number, event: DebugEvent): GdbStop {
  return event.kind === 'watchpoint'
    ? { kind: event.kind, thread, address: event.address, access: event.access }
    : { kind: event.kind, thread };
}
